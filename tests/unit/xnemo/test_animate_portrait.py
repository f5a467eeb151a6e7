"""The animator and its diffusers face, on a network of all parts at 32 pixels."""

import copy
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from preprocessing.detect.face import Face
from preprocessing.errors import UserError
from xnemo.animate import AnimateConfig, Animator, fit_windows
from xnemo.diffusion.sampler import SamplerConfig
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.model.autoencoder import AutoencoderConfig, make_autoencoder
from xnemo.model.config import NetworkConfig, tiny
from xnemo.model.frozen_paths import FrozenPaths
from xnemo.model.image_token import ImageTokenConfig
from xnemo.model.motion_encoder import MotionEncoderConfig
from xnemo.model.networks import build_networks
from xnemo.model.unet_config import UNetConfig
from xnemo.pictures import to_tensor
from xnemo.pipeline_xnemo import XNeMoPipeline

CONFIG = NetworkConfig(
    image_size=32,
    unet=UNetConfig(
        latent_channels=48,
        widths=(16, 16),
        attention=(False, True),
        layers=1,
        heads=2,
        norm_groups=4,
        module_norm_groups=4,
        image_token_width=12,
        motion_width=8,
        temporal=True,
        max_frames=8,
    ),
    motion=MotionEncoderConfig(
        image_size=16,
        stem_width=4,
        heatmaps=4,
        hourglass_depth=1,
        attention_width=16,
        attention_heads=2,
        norm_groups=4,
        latent_width=512,
        box_width=8,
        tokens=4,
        token_width=8,
    ),
    autoencoder=AutoencoderConfig("space_to_depth", path=None, factor=4, decode_chunk=4),
    image_token=ImageTokenConfig("pooled", path=None, subfolder=None, width=12),
)
FAST = AnimateConfig(sampler=SamplerConfig(steps=2, window=6, overlap=2))


# A learned autoencoder of Stable Diffusion's kind, small.
SMALL_KL = {
    "block_out_channels": (32,) * 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


class BrightSquares:
    """Takes every bright square of a colour for a face."""

    name, recognises, model_sha256 = "bright", False, {}

    def detect(self, rgb_HWC):
        found = []
        for channel, score in ((0, 0.95), (1, 0.9)):
            ys, xs = np.nonzero(rgb_HWC[..., channel] > 240)
            if len(xs):
                box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32)
                found.append(Face(box, score, np.zeros((5, 2), np.float32)))
        return found


def picture(x=40, y=30, side=30, channel=0, size=(96, 128), background=0):
    rng = np.random.default_rng(background)
    frame = rng.integers(0, 200, (*size, 3), dtype=np.uint8)
    if x is not None:
        frame[y : y + side, x : x + side, channel] = 255
    return frame


def driving(count=9):
    return [picture(40 + i, 30 + i % 3, background=i) for i in range(count)]


@pytest.fixture(scope="module")
def networks():
    networks = build_networks(CONFIG, training=False).eval()
    torch.manual_seed(0)
    for parameter in networks.denoiser.parameters():
        # Zero-initialised output layers would hide the motion from the result.
        parameter.data += 0.05 * torch.randn_like(parameter)
    return networks


@pytest.fixture(scope="module")
def animator(networks):
    return Animator(networks, BrightSquares())


@pytest.fixture(scope="module")
def clip(animator):
    return np.stack(list(animator.animate(picture(), driving(), FAST)))


def test_a_clip_has_the_drivers_length_and_repeats_by_seed(animator, clip):
    assert clip.shape == (9, 32, 32, 3)
    assert clip.dtype == np.uint8
    again = np.stack(list(animator.animate(picture(), driving(), FAST)))
    np.testing.assert_array_equal(again, clip)


def test_the_driver_moves_the_result(animator, clip):
    still = [picture(40, 30)] * 9
    assert np.abs(np.stack(list(animator.animate(picture(), still, FAST))) - clip).max() > 0


def test_result_frames_are_decoded_as_they_are_taken(animator):
    told = []
    frames = animator.animate(
        picture(), driving(), FAST, on_progress=lambda *news: told.append(news)
    )
    assert not [news for news in told if news[0] == "decoding"]
    next(frames)
    assert [news for news in told if news[0] == "decoding"] == []
    list(frames)
    assert told[-1] == ("decoding", 9, 9)
    assert ("denoising", 2, 2) in told
    assert ("finding faces", 9, 0) in told


def test_a_second_driver_at_weight_zero_changes_nothing(animator, clip):
    config = AnimateConfig(sampler=FAST.sampler, blend=(0.0, 0.0))
    other = [picture(20, 10, background=50 + i) for i in range(9)]
    mixed = np.stack(list(animator.animate(picture(), driving(), config, second_driving=other)))
    np.testing.assert_array_equal(mixed, clip)


def test_the_negative_motion_is_the_portraits_own_at_rest(animator, networks, monkeypatch):
    seen = {}

    def catch(denoiser, z_reference, conditions, *rest):
        seen["conditions"], seen["z"] = conditions, z_reference
        return torch.zeros(1, 48, 2, 8, 8)

    monkeypatch.setattr("xnemo.animate.sample_latents", catch)
    portrait = animator.prepare_portrait(picture())
    animator.denoise(portrait, torch.zeros(2, 4, 8))
    with torch.no_grad():
        expected = networks.motion_encoder(
            to_tensor(portrait.tight[None]), torch.tensor([[0.0, 0, 1]])
        ).tokens
    assert torch.equal(seen["conditions"].negative_motion, expected)
    wide = to_tensor(portrait.wide[None])
    assert torch.equal(seen["z"], networks.autoencoder.encode(wide))
    assert torch.equal(seen["conditions"].image_token, networks.image_token(wide))


def test_portraits_without_a_face_are_refused(animator):
    with pytest.raises(UserError, match="the portrait shows no face"):
        animator.animate(picture(None), driving(), FAST)


def test_portraits_with_several_faces_take_the_largest_or_are_refused(animator):
    both = picture(10, 10, 30)
    both[50:90, 60:100, 1] = 255
    assert animator.prepare_portrait(both).box.tolist() == [60, 50, 100, 90]
    with pytest.raises(UserError, match="the portrait shows 2 faces"):
        animator.prepare_portrait(both, AnimateConfig(portrait_face="only"))


def test_drivers_without_a_face_and_generators_are_refused(animator):
    with pytest.raises(UserError, match="the driving video shows no face"):
        animator.animate(picture(), [picture(None)] * 3, FAST)
    with pytest.raises(UserError, match="gone through only once"):
        animator.animate(picture(), iter(driving()), FAST)
    with pytest.raises(UserError, match="the second driving video shows no face"):
        animator.animate(picture(), driving(3), FAST, second_driving=[picture(None)])


def test_the_left_square_hides_a_face_at_the_right(animator):
    config = AnimateConfig(sampler=FAST.sampler, left_square=True)
    with pytest.raises(UserError, match="shows no face"):
        animator.animate(picture(), [picture(97, 30)] * 3, config)


def test_windows_suit_the_network():
    sampler = SamplerConfig()
    assert fit_windows(sampler, CONFIG.unet).window == 8
    assert fit_windows(sampler, tiny().unet).overlap == 0
    assert fit_windows(sampler, UNetConfig()) == sampler


def test_pipeline_gives_the_animators_frames(networks, animator, clip):
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
    np.testing.assert_array_equal(np.stack([np.asarray(f) for f in frames[0]]), clip)


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
    monkeypatch.setattr("xnemo.model.autoencoder._stable_diffusion_shape", lambda kind: SMALL_KL)
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
    monkeypatch.setattr("xnemo.model.autoencoder._stable_diffusion_shape", lambda kind: SMALL_KL)
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


def test_zero_terminal_snr_networks_animate_with_defaults(networks):
    diffusion = DiffusionConfig(prediction_type="v_prediction", zero_terminal_snr=True)
    animator = Animator(networks, BrightSquares(), diffusion)
    steps = []
    frames = animator.animate(
        picture(), driving(2), FAST, on_step=lambda step, t, z: steps.append(t)
    )
    assert len(list(frames)) == 2
    assert steps == [999, 499]
