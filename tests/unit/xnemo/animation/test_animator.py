"""The animator, on a network of all parts at 32 pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from little_model import CONFIG, BrightSquares, driving, little_networks, picture

from preprocessing.errors import UserError
from xnemo.animation.animator import Animator, fit_windows
from xnemo.animation.config import AnimateConfig, FaceConfig
from xnemo.animation.motion import to_tensor
from xnemo.animation.motion_file import pack_motion, read_motion_file
from xnemo.diffusion.sampler import SamplerConfig
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.model.config import tiny
from xnemo.model.unet.config import UNetConfig

FAST = AnimateConfig(steps=2, window=6, overlap=2)


@pytest.fixture(scope="module")
def networks():
    return little_networks()


@pytest.fixture(scope="module")
def animator(networks):
    return Animator(networks, BrightSquares())


@pytest.fixture(scope="module")
def clip(animator):
    return np.stack(list(animator.animate(picture(), driving(), FAST)))


def test_a_clip_has_the_driving_videos_length_and_repeats_by_seed(animator, clip):
    assert clip.shape == (9, 32, 32, 3)
    assert clip.dtype == np.uint8
    again = np.stack(list(animator.animate(picture(), driving(), FAST)))
    np.testing.assert_array_equal(again, clip)


def test_the_driving_video_moves_the_result(animator, clip):
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


def test_a_second_driving_video_at_weight_zero_changes_nothing(animator, clip):
    config = replace(FAST, blend=(0.0, 0.0))
    other = [picture(20, 10, background=50 + i) for i in range(9)]
    mixed = np.stack(list(animator.animate(picture(), driving(), config, second_driving=other)))
    np.testing.assert_array_equal(mixed, clip)


def test_the_negative_motion_is_the_portraits_own_at_rest(animator, networks, monkeypatch):
    seen = {}

    def catch(denoiser, z_reference, conditions, *rest):
        seen["conditions"], seen["z"] = conditions, z_reference
        return torch.zeros(1, 48, 2, 8, 8)

    monkeypatch.setattr("xnemo.animation.animator.sample_latents", catch)
    portrait = animator.prepare_portrait(picture())
    animator.denoise(portrait, torch.zeros(2, 4, 8))
    with torch.no_grad():
        expected = networks.motion_encoder(
            to_tensor(portrait.tight[None]), torch.tensor([[0.0, 0, 1]])
        ).tokens
    assert torch.equal(seen["conditions"].negative_motion, expected)
    wide = to_tensor(portrait.wide[None])
    assert torch.equal(seen["z"], networks.autoencoder.encode(wide))
    assert torch.equal(seen["conditions"].image_embedding, networks.image_embedding(wide))


def test_portraits_without_a_face_are_refused(animator):
    with pytest.raises(UserError, match="the portrait shows no face"):
        animator.animate(picture(None), driving(), FAST)


def test_the_face_of_a_portrait_is_chosen_by_size_or_by_a_box(animator):
    both = picture(10, 10, 30)
    both[50:90, 60:100, 1] = 255

    def box(choice):
        config = AnimateConfig(faces=FaceConfig(portrait=choice))
        return animator.prepare_portrait(both, config).box.tolist()

    assert box(1) == [60, 50, 100, 90]
    assert box(2) == [10, 10, 40, 40]
    assert box("12,11,44,43") == [12, 11, 44, 43]
    with pytest.raises(UserError, match=r"faces\.portrait = 3, but the portrait shows 2 faces"):
        box(3)
    with pytest.raises(UserError, match="reaches out of the portrait, which is 128×96"):
        box("0,0,40,97")


def test_a_drawn_face_is_animated_by_its_box(animator):
    config = replace(FAST, faces=FaceConfig(portrait="30,20,80,70"))
    assert len(list(animator.animate(picture(None), driving(3), config))) == 3


def test_motion_from_a_file_is_the_same_to_the_bit(animator, tmp_path):
    motion = animator.read_motion(driving(), FAST)
    path = tmp_path / "motion.safetensors"
    path.write_bytes(pack_motion(motion, 29.97, animator.encoder_sha256))
    again, fps = read_motion_file(path, animator.encoder_sha256)
    assert fps == 29.97
    portrait = animator.prepare_portrait(picture())
    for box in ("relative", "real"):
        config = replace(FAST, box=box, strength=1.5)
        first, second = (animator.place_motion(m, portrait, config) for m in (motion, again))
        assert torch.equal(first, second)
    with pytest.raises(UserError, match="holds motion of another model's encoder"):
        read_motion_file(path, "0" * 64)
    for name, content in (("x", path.read_bytes()[:-9]), ("y", b"text"), ("z", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="is damaged or not a motion file"):
            read_motion_file(tmp_path / name, animator.encoder_sha256)
    with pytest.raises(UserError, match="there is no motion file at"):
        read_motion_file(tmp_path / "none", animator.encoder_sha256)


def test_driving_videos_without_a_face_and_generators_are_refused(animator):
    with pytest.raises(UserError, match="the driving video shows no face"):
        animator.animate(picture(), [picture(None)] * 3, FAST)
    with pytest.raises(UserError, match="iterated only once"):
        animator.animate(picture(), iter(driving()), FAST)
    with pytest.raises(UserError, match="the second driving video shows no face"):
        animator.animate(picture(), driving(3), FAST, second_driving=[picture(None)])


def test_the_left_square_hides_a_face_at_the_right(animator):
    config = replace(FAST, faces=FaceConfig(left_square=True))
    with pytest.raises(UserError, match="shows no face"):
        animator.animate(picture(), [picture(97, 30)] * 3, config)


def test_windows_suit_the_network():
    sampler = SamplerConfig()
    assert fit_windows(sampler, CONFIG.unet).window == 8
    assert fit_windows(sampler, tiny().unet).overlap == 0
    assert fit_windows(sampler, UNetConfig()) == sampler


def test_windows_are_no_longer_than_those_trained_on():
    fitted = fit_windows(SamplerConfig(), UNetConfig(), 16)
    assert (fitted.window, fitted.overlap) == (16, 4)
    assert fit_windows(SamplerConfig(window=8), UNetConfig(), 16).window == 8
    assert fit_windows(SamplerConfig(), UNetConfig(), 3).overlap == 2


def test_zero_terminal_snr_networks_animate_with_defaults(networks):
    diffusion = DiffusionConfig(prediction_type="v_prediction", zero_terminal_snr=True)
    animator = Animator(networks, BrightSquares(), diffusion)
    steps = []
    frames = animator.animate(
        picture(), driving(2), FAST, on_step=lambda step, t, z: steps.append(t)
    )
    assert len(list(frames)) == 2
    assert steps == [999, 499]
