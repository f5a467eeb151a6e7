"""From files to files: what is written, what is refused, and that nothing is left behind."""

import io
from dataclasses import replace

import av
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from untrained_model import write_bundle, write_video

from pipelines.animate.audio import add_sound, find_sound
from pipelines.animate.contact_sheet import contact_sheet
from pipelines.animate.job import AnimateOptions, animate, place_networks
from preprocessing.encode.clip_encoder import encode_clip
from preprocessing.errors import UserError
from xnemo.animation.config import FaceConfig
from xnemo.animation.driving_video import DrivingVideo

FAST = AnimateOptions(
    steps=1,
    guidance=1.0,
    faces=FaceConfig(every=4),
    weights="raw",
    device="cpu",
    max_frames=5,
    sheet_frames=3,
)


def streams(content):
    """Times of the packets of the picture and of the sound."""
    with av.open(io.BytesIO(content)) as file:
        return {
            s.type: [float(p.pts * p.time_base) for p in file.demux(s) if p.pts is not None]
            for s in [file.streams.video[0], *file.streams.audio]
            if not file.seek(0)
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle without training, a portrait and a driving video."""
    root = tmp_path_factory.mktemp("animate")
    write_bundle(root / "bundle")
    Image.fromarray(skimage.data.astronaut()).save(root / "portrait.png")
    write_video(root / "driving.mp4")
    return root


def test_video_sheet_and_sound_are_written(folder, tmp_path):
    target = tmp_path / "new" / "folder" / "out.mp4"
    result = animate(
        folder / "bundle", folder / "portrait.png", folder / "driving.mp4", target, FAST
    )
    assert (result.output, result.frames, result.fps) == (target, 5, 30.0)
    assert result.audio == "copied"
    times = streams(target.read_bytes())
    np.testing.assert_allclose(times["video"], np.arange(5) / 30, atol=1e-3)
    assert times["audio"][-1] < 5 / 30
    with Image.open(result.contact_sheet) as sheet:
        assert sheet.size == (4 * 198 + 6, 2 * 218)
    assert sorted(p.name for p in target.parent.iterdir()) == ["out.mp4", "out.png"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"portrait": "none.png"}, "there is no portrait at"),
        ({"portrait": "text.png"}, "cannot be read as an image"),
        ({"portrait": "blank.png"}, r"blank\.png: the portrait shows no face"),
        ({"driving": "none.mp4"}, r"cannot be read as a video \(missing\)"),
        ({"driving": "text.mp4"}, r"cannot be read as a video \(not_video\)"),
        ({"driving": "faceless.mp4"}, r"faceless\.mp4 shows no face"),
        ({"bundle": "none"}, "there is no bundle at"),
        ({"output": "out.gif"}, r"is not an \.mp4"),
        ({"output": "bundle"}, r"bundle is a folder; name a file, such as .*animated\.mp4"),
        ({"bundle": "."}, r"did you mean .*bundle\?"),
        ({"output": "driving.mp4"}, "would be overwritten"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(folder, change, message):
    (folder / "text.png").write_text("no picture")
    (folder / "text.mp4").write_text("no video")
    Image.new("RGB", (64, 64)).save(folder / "blank.png")
    dark = [np.zeros((64, 64, 3), np.uint8)] * 3
    (folder / "faceless.mp4").write_bytes(encode_clip(dark))
    names = {"bundle": "bundle", "portrait": "portrait.png", "driving": "driving.mp4"}
    names |= {"output": "out/x.mp4"} | change
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        animate(*(folder / names[n] for n in ("bundle", "portrait", "driving", "output")), FAST)
    assert "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before


def test_a_gpu_that_is_not_there_is_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="has 0 usable GPUs"):
        place_networks(None, "cuda", "auto")


def test_switches_for_speed_leave_the_frames_alone(folder, tmp_path, monkeypatch):
    compiled, asked = [], []
    # Whether this machine can compile is another test's question.
    monkeypatch.setattr("pipelines.animate.job.require_compiling", asked.append)
    monkeypatch.setattr(
        "xnemo.model.unet.trunk.UNetTrunk.compile_repeated_blocks",
        lambda unet: compiled.append(unet.conv_in.weight),
    )
    frames = []
    for name, options in (
        ("plain", FAST),
        ("fast", replace(FAST, channels_last=True, compile=True)),
    ):
        target = tmp_path / f"{name}.mp4"
        animate(folder / "bundle", folder / "portrait.png", folder / "driving.mp4", target, options)
        frames.append(np.stack(list(DrivingVideo(target))).astype(int))
    assert len(compiled) == 1
    assert asked == ["cpu"]
    assert compiled[0].is_contiguous(memory_format=torch.channels_last)
    assert np.abs(frames[0] - frames[1]).max() <= 2


def test_a_driver_is_resampled_by_time(folder):
    own = DrivingVideo(folder / "driving.mp4")
    assert own.fps == 30
    assert len(list(own)) == 10
    assert len(list(own)) == 10
    slow = DrivingVideo(folder / "driving.mp4", fps=15)
    np.testing.assert_array_equal(list(slow)[1], list(own)[2])
    assert len(list(DrivingVideo(folder / "driving.mp4", max_frames=4))) == 4
    with pytest.raises(UserError, match="fps = 0"):
        DrivingVideo(folder / "driving.mp4", fps=0)


def test_a_driver_of_one_frame_and_one_that_halts_keep_their_time(tmp_path):
    alone = write_video(tmp_path / "alone.mp4", frames=1, codec=None)
    assert len(list(DrivingVideo(alone))) == 1
    slow = write_video(tmp_path / "slow.mp4", frames=3, fps=1, codec=None)
    assert len(list(DrivingVideo(slow))) == 3
    # A second at a time without a new frame: what is shown then is the nearest there is.
    frames = list(DrivingVideo(slow, fps=10))
    # The last frame is shown for a second too.
    assert len(frames) == 30
    np.testing.assert_array_equal(frames[4], frames[0])
    np.testing.assert_array_equal(frames[6], frames[10])


def clip(frames=10, fps=30.0):
    return encode_clip([np.full((32, 32, 3), 9 * i, np.uint8) for i in range(frames)], fps)


def test_sound_of_another_kind_is_encoded_and_stays_in_time(tmp_path):
    source = write_video(tmp_path / "flac.mkv", codec="flac")
    out, fate = add_sound(clip(), find_sound(source), 0.0, 10 / 30)
    assert fate == "encoded"
    times = streams(out)
    assert len(times["video"]) == 10
    # Whole FLAC frames of a tenth of a second are taken.
    assert 0.25 < times["audio"][-1] < 10 / 30 + 0.1


def test_sound_starts_with_the_picture(tmp_path):
    source = write_video(tmp_path / "late.mp4")
    out, _ = add_sound(clip(), find_sound(source), 0.2, 10 / 30)
    whole, _ = add_sound(clip(), find_sound(source), 0.0, 10 / 30)
    assert 0 <= streams(out)["audio"][0] < 1024 / 44100 + 1e-3

    def packets(content):
        with av.open(io.BytesIO(content)) as file:
            return [bytes(p) for p in file.demux(audio=0) if p.size]

    # The packet now first is one that lay 0.2 s into the sound.
    place = packets(whole).index(packets(out)[0])
    assert place == pytest.approx(0.2 * 44100 / 1024, abs=1.5)


def test_silent_and_broken_sources_leave_the_picture_alone(tmp_path):
    mp4 = clip()
    silent = write_video(tmp_path / "silent.mp4", codec=None)
    assert add_sound(mp4, find_sound(silent), 0.0, 1.0) == (mp4, "none")
    (tmp_path / "broken.mp4").write_text("nothing")
    same, fate = add_sound(mp4, find_sound(tmp_path / "broken.mp4"), 0.0, 1.0)
    assert same == mp4
    assert fate.startswith("lost: ")


def test_a_sheet_shows_driver_above_result_without_cutting():
    red, wide = np.zeros((8, 8, 3), np.uint8), np.zeros((10, 40, 3), np.uint8)
    red[..., 0], wide[..., 1] = 200, 200
    sheet = np.asarray(contact_sheet(red, [wide, wide], [red, red], ["a", "b"], cell=40))
    assert sheet.shape == (2 * 66, 3 * 46 + 6, 3)
    assert (sheet[20 + 20, 6 + 20] == [200, 0, 0]).all()
    # A wide frame keeps its shape: paper above and below it.
    assert (sheet[20 + 20, 52 + 20] == [0, 200, 0]).all()
    assert (sheet[20 + 3, 52 + 20] == 255).all()
    assert (sheet[86 + 20, 52 + 20] == [200, 0, 0]).all()
