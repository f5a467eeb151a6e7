"""The model as a diffusers user handles it, on a network of all parts at 32 pixels."""

import copy
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from little_model import CONFIG, BrightSquares, driving, little_networks, picture

from preprocessing.errors import UserError
from xnemo.animation.animator import AnimateConfig, Animator
from xnemo.animation.pipeline_xnemo import XNeMoPipeline
from xnemo.diffusion.sampler import SamplerConfig
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

FAST = AnimateConfig(sampler=SamplerConfig(steps=2, window=6, overlap=2))


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
    monkeypatch.setattr(autoencoder, "_stable_diffusion_shape", lambda kind: SMALL_KL)
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
    monkeypatch.setattr(autoencoder, "_stable_diffusion_shape", lambda kind: SMALL_KL)
    kl = AutoencoderConfig("kl", path="random")
    config = replace(CONFIG, unet=replace(CONFIG.unet, latent_channels=4), autoencoder=kl)
    built = build_networks(config, training=False)
    built.config = replace(config, autoencoder=replace(kl, path=str(tmp_path / "away")))
    XNeMoPipeline.from_networks(built).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"autoencoder\.path = .*away"):
        XNeMoPipeline.from_pretrained(tmp_path / "model")
    found = XNeMoPipeline.from_pretrained(tmp_path / "model", paths=FrozenPaths("random"))
    assert found.autoencoder.latent_channels == 4


def test_a_scheduler_config_may_name_nothing_else(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    for text in ('{"_class_name": "AutoencoderKL"}', '{"_class_name": 3}', "[]"):
        config.write_text(text)
        with pytest.raises(UserError, match=r"no scheduler_config\.json that"):
            XNeMoPipeline.from_pretrained(tmp_path / "model")


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
    with pytest.raises(UserError, match="has no part 'tokenizer'"):
        XNeMoPipeline.from_pretrained(tmp_path / "model", tokenizer=None)
    (tmp_path / "model" / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"no scheduler_config\.json that"):
        XNeMoPipeline.from_pretrained(tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
