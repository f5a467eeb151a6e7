"""The model as a diffusers user handles it, on a network of all parts at 32 pixels."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from huggingface_hub import ModelCard
from little_model import CONFIG, BrightSquares, driving, little_networks, picture
from safetensors.torch import load_file, save_file

import xnemo
from preprocessing.encode.clip_encoder import encode_clip
from preprocessing.errors import UserError
from xnemo.animation.animator import Animator
from xnemo.animation.config import AnimateConfig
from xnemo.animation.load_model import load_model
from xnemo.animation.pipeline import XNeMoPipeline
from xnemo.model.config import FrozenPaths
from xnemo.model.frozen import autoencoder
from xnemo.model.frozen.autoencoder import AutoencoderConfig, make_autoencoder
from xnemo.model.networks import build_networks

# A learned autoencoder of Stable Diffusion's kind, small.
SMALL_KL = {
    "block_out_channels": (32,) * 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}

FAST = AnimateConfig(steps=2, window=6, overlap=2)


@pytest.fixture(scope="module")
def networks():
    return little_networks()


def test_pipeline_gives_the_animators_frames(networks):
    clip = list(Animator(networks, BrightSquares()).animate(picture(), driving(), FAST))
    pipe = XNeMoPipeline.from_networks(networks, detector=BrightSquares())
    pipe.set_progress_bar_config(disable=True)
    arguments = {
        "num_inference_steps": 2,
        "window": 6,
        "overlap": 2,
        "generator": torch.Generator().manual_seed(0),
    }
    portrait = PIL.Image.fromarray(picture())
    frames = pipe(portrait, (PIL.Image.fromarray(f) for f in driving()), **arguments).frames
    np.testing.assert_array_equal(np.stack([np.asarray(f) for f in frames[0]]), np.stack(clip))


def test_a_portrait_and_a_driving_video_may_be_files(pipe, tmp_path):
    PIL.Image.fromarray(picture()).save(tmp_path / "portrait.png")
    (tmp_path / "driving.mp4").write_bytes(encode_clip(driving(4)))
    files = str(tmp_path / "portrait.png"), tmp_path / "driving.mp4"
    assert len(pipe(*files, num_inference_steps=1).frames[0]) == 4
    with pytest.raises(UserError, match="cannot be read as an image"):
        pipe(tmp_path / "driving.mp4", files[1])


@pytest.fixture
def pipe(networks):
    pipe = XNeMoPipeline.from_networks(networks, detector=BrightSquares())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_pipeline_output_types_callback_and_schedulers(pipe):
    steps = []

    def on_end(given, step, timestep, kwargs):
        assert given is pipe
        steps.append((step, timestep))
        return {"latents": torch.zeros_like(kwargs["latents"])}

    def run(**kwargs):
        return pipe(picture(), driving(3), num_inference_steps=2, **kwargs)

    latents = run(output_type="latent", callback_on_step_end=on_end).frames
    assert latents.shape == (1, 48, 3, 8, 8)
    assert not latents.any()
    assert steps == [(0, 501), (1, 1)]
    (tensor,) = run(output_type="pt", return_dict=False)
    assert tensor.shape == (1, 3, 3, 32, 32)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    assert run(output_type="np", guidance_scale=1.0).frames.shape == (1, 3, 32, 32, 3)
    with pytest.raises(UserError, match="output_type = 'gif'"):
        run(output_type="gif")
    with pytest.raises(UserError, match="cannot be given 'noise'"):
        run(callback_on_step_end_tensor_inputs=["noise"])


def run_np(pipe, **arguments):
    arguments = {"num_inference_steps": 2, "window": 6, "overlap": 2} | arguments
    generator = torch.Generator().manual_seed(4)
    return pipe(picture(), driving(3), generator=generator, output_type="np", **arguments).frames


def doubled(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_parts_take_turns_on_the_device_where_the_pipeline_offloads(networks, monkeypatch):
    """On a machine without a GPU the device is the CPU too; order and result can be seen."""
    parts = copy.copy(networks)
    monkeypatch.setattr(autoencoder, "_random_shape", lambda config: SMALL_KL)
    learned = make_autoencoder(AutoencoderConfig("kl", path="random"))
    encode, decode = learned.encode, learned.decode
    # It has 4 channels of cells of 8 pixels, and the denoiser here 48 of cells of 4.
    monkeypatch.setattr(learned, "encode", lambda x: encode(doubled(x)).repeat(1, 12, 1, 1))
    monkeypatch.setattr(
        learned,
        "decode_chunks",
        lambda z: iter([decode(z[:, :4, 0])[:, :, None, ::2, ::2].expand(-1, -1, 3, -1, -1)]),
    )
    parts.autoencoder = learned
    pipe = XNeMoPipeline.from_networks(parts, detector=BrightSquares())
    pipe.set_progress_bar_config(disable=True)
    plain = run_np(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    order = []

    def note(name, moved):
        return lambda *args, **kwargs: order.append(name) or moved(*args, **kwargs)

    for name in ("motion_encoder", "autoencoder", "reference_net", "denoiser"):
        hook = getattr(parts, name)._hf_hook
        monkeypatch.setattr(hook, "pre_forward", note(name, hook.pre_forward))
    np.testing.assert_array_equal(run_np(pipe), plain)
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert turns == [
        "motion_encoder", "autoencoder", "reference_net", "motion_encoder", "denoiser",
        "autoencoder",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "scheduler", [DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler]
)
def test_any_scheduler_of_the_same_process_may_be_swapped_in_and_used_again(pipe, scheduler):
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    first = run_np(pipe, num_inference_steps=4)
    assert np.isfinite(first).all()
    # What a multistep scheduler remembers of one clip must not reach the next.
    np.testing.assert_array_equal(run_np(pipe, num_inference_steps=4), first)
    # A change of step count in between neither.
    run_np(pipe, num_inference_steps=3)
    np.testing.assert_array_equal(run_np(pipe, num_inference_steps=4), first)


def test_pipeline_counts_its_steps(pipe, capsys):
    pipe.set_progress_bar_config(disable=False, ascii=True)
    run_np(pipe, num_inference_steps=3)
    assert "3/3" in capsys.readouterr().err


def test_pipeline_casts_in_place(networks):
    pipe = XNeMoPipeline.from_networks(copy.deepcopy(networks), detector=BrightSquares())
    pipe.set_progress_bar_config(disable=True)
    exact = run_np(pipe)
    assert pipe.to(torch.bfloat16) is pipe
    assert pipe.dtype == torch.bfloat16
    assert np.abs(run_np(pipe) - exact).mean() < 0.02
    pipe.to("cpu", dtype=torch.float32)
    assert pipe.dtype == torch.float32


def test_frozen_parts_may_have_moved(tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "_random_shape", lambda config: SMALL_KL)
    kl = AutoencoderConfig("kl", path="random")
    config = replace(CONFIG, unet=replace(CONFIG.unet, latent_channels=4), autoencoder=kl)
    built = build_networks(config, training=False)
    built.config = replace(config, autoencoder=replace(kl, path=str(tmp_path / "away")))
    XNeMoPipeline.from_networks(built).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"autoencoder\.path = .*away"):
        XNeMoPipeline.from_pretrained(tmp_path / "model")
    found = XNeMoPipeline.from_pretrained(tmp_path / "model", frozen_paths=FrozenPaths("random"))
    assert found.autoencoder.latent_channels == 4


def test_a_scheduler_config_may_name_nothing_else(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    for text in ('{"_class_name": "AutoencoderKL"}', '{"_class_name": 3}', "[]", "{}"):
        config.write_text(text)
        with pytest.raises(UserError, match=r"no scheduler_config\.json that"):
            load_model(tmp_path / "model")


@pytest.mark.parametrize("damage", ["cut", "tensor lost", "folder lost", "scheduler"])
def test_a_damaged_pipeline_is_refused_in_one_line(pipe, tmp_path, damage):
    model = tmp_path / "model"
    pipe.save_pretrained(model)
    weights = model / "denoiser" / "diffusion_pytorch_model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "tensor lost":
        tensors = load_file(weights)
        tensors.pop("conv_in.weight")
        save_file(tensors, weights, metadata={"format": "pt"})
    elif damage == "folder lost":
        shutil.rmtree(model / "motion_encoder")
    else:
        (model / "scheduler" / "scheduler_config.json").write_text("[")
    with pytest.raises(UserError) as caught:
        XNeMoPipeline.from_pretrained(model)
    assert "\n" not in str(caught.value)


def test_parts_are_found_as_attributes_of_the_package(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["_class_name"] == "XNeMoPipeline"
    for name in ("denoiser", "reference_net", "motion_encoder"):
        library, class_name = index[name]
        assert library == "xnemo"
        assert getattr(xnemo, class_name) is type(getattr(pipe, name))
    # Frozen parts are named by their configuration, not stored.
    assert index["autoencoder"] == index["image_embedding"] == [None, None]
    assert not (tmp_path / "model" / "autoencoder").exists()


def test_weights_are_saved_as_a_variant_or_as_pickles(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    assert (tmp_path / "half/denoiser/diffusion_pytorch_model.fp16.safetensors").is_file()
    half = XNeMoPipeline.from_pretrained(tmp_path / "half", variant="fp16", dtype=torch.float16)
    assert half.dtype == torch.float16
    pipe.save_pretrained(tmp_path / "pickle", safe_serialization=False)
    assert (tmp_path / "pickle/denoiser/diffusion_pytorch_model.bin").is_file()
    assert XNeMoPipeline.from_pretrained(tmp_path / "pickle").dtype == torch.float32


def test_a_name_on_the_hub_goes_to_the_hub_client(pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path / "model")
    asked = {}

    def download(name, **kwargs):
        asked.update(name=name, revision=kwargs["revision"])
        return str(tmp_path / "model")

    monkeypatch.setattr(XNeMoPipeline, "download", download)
    found = XNeMoPipeline.from_pretrained("org/name", revision="v1")
    assert asked == {"name": "org/name", "revision": "v1"}
    assert found.device.type == "cpu"


def test_a_name_on_the_hub_without_a_network_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="org/name does not load as an XNeMoPipeline") as caught:
        XNeMoPipeline.from_pretrained("org/name", local_files_only=True)
    assert "\n" not in str(caught.value)


def test_a_pipeline_is_pushed_to_the_hub(pipe, monkeypatch):
    pushed = {}

    def upload(self, folder, repo_id, **kwargs):
        pushed[repo_id] = sorted(p.name for p in Path(folder).iterdir())

    hub = "diffusers.utils.hub_utils"
    monkeypatch.setattr(f"{hub}.create_repo", lambda repo_id, **_: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(f"{hub}.load_or_create_model_card", lambda *_, **__: ModelCard("card"))
    monkeypatch.setattr(f"{hub}.populate_model_card", lambda card: card)
    monkeypatch.setattr(XNeMoPipeline, "_upload_folder", upload)
    pipe.push_to_hub("org/name")
    assert pushed["org/name"] == [
        "README.md", "denoiser", "model_index.json", "motion_encoder", "network.json",
        "reference_net", "scheduler",
    ]  # fmt: skip


def test_a_scheduler_is_replaced_while_loading(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    found = XNeMoPipeline.from_pretrained(tmp_path / "model", scheduler=scheduler)
    assert found.scheduler is scheduler
    again = XNeMoPipeline(**found.components, **found.parameters)
    assert again.denoiser is found.denoiser
    assert again.networks_config == found.networks_config


@pytest.mark.gpu
def test_generators_and_offloading_on_a_gpu(pipe):
    def run():
        generator = torch.Generator("cuda").manual_seed(3)
        arguments = {"num_inference_steps": 2, "generator": generator, "output_type": "np"}
        return pipe(picture(), driving(3), **arguments).frames

    try:
        pipe.to("cuda")
        whole = run()
        np.testing.assert_array_equal(run(), whole)
        pipe.enable_model_cpu_offload()
        np.testing.assert_allclose(run(), whole, atol=2 / 255)
    finally:
        pipe.remove_all_hooks()
        pipe.to("cpu")


def test_pipeline_loads_what_it_saved_bit_for_bit(pipe, tmp_path):
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path / "model")
    again = XNeMoPipeline.from_pretrained(tmp_path / "model", detector=BrightSquares())
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.scheduler, UniPCMultistepScheduler)
    one, two = (
        p(
            picture(),
            driving(3),
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(4),
            output_type="np",
        ).frames
        for p in (pipe, again)
    )
    np.testing.assert_array_equal(one, two)
    half = XNeMoPipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    with pytest.raises(UserError, match="exists already"):
        pipe.save_pretrained(tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
