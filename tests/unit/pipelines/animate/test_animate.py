"""From files to files: what is written, what is refused, and that nothing is left behind."""

import io
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from untrained_model import write_bundle, write_video

from pipelines.animate.audio import add_sound, find_sound
from pipelines.animate.contact_sheet import contact_sheet
from pipelines.animate.credentials import CredentialsConfig
from pipelines.animate.job import (
    AnimateOptions,
    animate,
    encode_motion,
    load_animator,
    place_networks,
)
from pipelines.inspect.examine import examine
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


def test_sound_with_holes_and_behind_an_unknown_track_keeps_its_time(tmp_path):
    """Opus writes nothing while it is silent; recent phones put a codec first that nobody knows."""
    path = tmp_path / "holes.mkv"
    rate, times = 48000, np.arange(48000 * 6) / 48000
    beep = ((times % 2 >= 1) & (times % 2 < 1.2)) * np.sin(5000 * times)
    with av.open(str(path), "w") as out:
        video, sound = out.add_stream("libx264", rate=25), out.add_stream("libopus", rate=rate)
        video.width = video.height = 64
        sound.layout = "mono"
        for number in range(150):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
            frame.pts = number
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for start in range(0, len(beep), 960):
            piece = np.float32(beep[None, start : start + 960])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            # Only around the beeps.
            out.mux([p for p in sound.encode(frame) if 0.8 < float(p.pts * p.time_base) % 2 < 1.5])
    silent = encode_clip([np.zeros((32, 32, 3), np.uint8)] * 150)
    made, fate = add_sound(silent, find_sound(path), 0.0, 6.0)
    assert fate == "encoded"
    with av.open(io.BytesIO(made)) as file:
        frames = list(file.decode(audio=0))
    loud = np.abs(np.concatenate([f.to_ndarray().mean(axis=0) for f in frames])) > 0.2
    at = np.flatnonzero(loud) / rate + frames[0].time
    begins = at[np.diff(at, prepend=-9) > 0.5]
    np.testing.assert_allclose(begins, [1, 3, 5], atol=0.04)

    two = tmp_path / "two.mp4"
    with av.open(str(write_video(tmp_path / "one.mp4"))) as one, av.open(str(two), "w") as out:
        copies = {i: out.add_stream_from_template(one.streams[k]) for i, k in enumerate((0, 1, 1))}
        for index, stream in copies.items():
            one.seek(0)
            for packet in one.demux(one.streams[min(index, 1)]):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
    content = two.read_bytes()
    at = content.index(b"mp4a", content.index(b"stsd", content.index(b"soun")))
    # Without the description of AAC, which FFmpeg would believe more than the name.
    end = content.index(b"esds", at)
    two.write_bytes(content[:at] + b"apac" + content[at + 4 : end] + b"xxxx" + content[end + 4 :])
    found = find_sound(two)
    assert (found.track, found.lost) == (1, "track 1 has an unknown codec")
    made, fate = add_sound(clip(), found, 0.0, 10 / 30)
    assert fate == "copied (lost: track 1 has an unknown codec)"
    assert streams(made)["audio"]


def test_a_driver_that_changes_its_size_is_read_whole(tmp_path):
    """Frames after the change used to be read in their upper left quarter."""
    parts = []
    for size in (64, 128):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mpegts") as out:
            video = out.add_stream("libx264", rate=25)
            video.width, video.height = size, size
            video.codec_context.options = {"bf": "0"}
            for number in range(10):
                image = np.zeros((size, size, 3), np.uint8)
                image[size // 2 :, size // 2 :] = 200
                frame = av.VideoFrame.from_ndarray(image)
                frame.pts = number + 10 * (size == 128)
                out.mux(video.encode(frame))
            out.mux(video.encode(None))
        parts.append(buffer.getvalue())
    (tmp_path / "x.ts").write_bytes(b"".join(parts))
    frames = list(DrivingVideo(tmp_path / "x.ts"))
    assert {frame.shape for frame in frames} == {(64, 64, 3)}
    assert np.abs(frames[-1].astype(int) - frames[0]).mean() < 3


def test_motion_file_and_video_give_the_same_bytes(folder, tmp_path):
    driving = write_video(tmp_path / "silent.mp4", frames=5, codec=None)
    motion = tmp_path / "motion.safetensors"
    encode_motion(folder / "bundle", driving, motion, FAST)
    made = {}
    for source in (driving, motion):
        target = tmp_path / f"{source.stem}_out.mp4"
        result = animate(folder / "bundle", folder / "portrait.png", source, target, FAST)
        made[source] = target.read_bytes()
        assert result.contact_sheet.is_file()
    assert made[driving] == made[motion]
    assert result.audio == "none in a motion file"
    with pytest.raises(UserError, match="fps = 15"):
        animate(folder / "bundle", folder / "portrait.png", motion, target, replace(FAST, fps=15.0))


def test_the_whole_portrait_comes_back_upright_and_says_what_it_is(folder, tmp_path):
    picture = Image.fromarray(skimage.data.astronaut()[:401])
    exif = Image.Exif()
    exif[0x0112] = 6
    # Stored lying on its side, as a phone does.
    picture.rotate(90, expand=True).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    target = tmp_path / "out.mp4"
    options = replace(FAST, paste_back=True)
    result = animate(
        folder / "bundle", tmp_path / "phone.jpg", folder / "driving.mp4", target, options
    )
    frame = next(iter(DrivingVideo(target))).astype(int)
    assert frame.shape == (400, 512, 3)
    # Far from the face nothing changed.
    corner = np.asarray(picture)[300:400, :100].astype(int)
    assert np.abs(frame[300:400, :100] - corner).mean() < 4
    facts = examine(str(target)).facts
    assert facts["comment"].startswith("AI-generated: a portrait animated by xnemo")
    assert (result.credentials, facts["content credentials"]) == ("unsigned", "none")
    with Image.open(result.contact_sheet) as sheet:
        assert sheet.text["Comment"] == facts["comment"]


def test_what_cannot_be_written_or_signed_is_refused_before_the_work(folder, tmp_path, monkeypatch):
    def late(*_):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("pipelines.animate.job.load_animator", late)
    inputs = (folder / "bundle", folder / "portrait.png", folder / "driving.mp4")
    with pytest.raises(UserError, match="nothing can be written in"):
        animate(*inputs, tmp_path / ("x" * 250 + ".mp4"), FAST)
    with pytest.raises(UserError, match="only one is given"):
        CredentialsConfig(certificate="a.pem")
    signing = CredentialsConfig("none.pem", str(folder / "portrait.png"))
    with pytest.raises(UserError, match=r"none\.pem cannot be read as a certificate"):
        animate(*inputs, tmp_path / "x.mp4", replace(FAST, credentials=signing))
    text = tmp_path / "text.pem"
    text.write_text("nothing")
    signing = CredentialsConfig(str(text), str(text))
    with pytest.raises(UserError, match="does not sign"):
        animate(*inputs, tmp_path / "x.mp4", replace(FAST, credentials=signing))
    assert [p.name for p in tmp_path.iterdir()] == ["text.pem"]


def test_what_fails_after_the_work_does_not_lose_it(folder, tmp_path, monkeypatch):
    animator = load_animator(folder / "bundle", FAST)
    inputs = (animator, folder / "portrait.png", folder / "driving.mp4")
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.animate.job.shutil.disk_usage", lambda _: usage._replace(free=9))
        with pytest.raises(UserError, match="the video may need"):
            animate(*inputs, tmp_path / "x.mp4", FAST)

    def broken(*_):
        raise RuntimeError("sound")

    monkeypatch.setattr("pipelines.animate.audio._mux", broken)
    monkeypatch.setattr("pipelines.animate.job.contact_sheet", lambda *_: 1 / 0)
    result = animate(*inputs, tmp_path / "x.mp4", FAST)
    assert (result.audio, result.contact_sheet) == ("lost: sound", None)
    assert len(list(DrivingVideo(tmp_path / "x.mp4"))) == 5
    blocked = tmp_path / "folder"
    monkeypatch.setattr(
        "pipelines.animate.job.encode_clip",
        lambda *a, **k: blocked.write_text("a file in the way") and encode_clip(*a, **k),
    )
    with pytest.raises(UserError, match="the video is kept as") as caught:
        animate(*inputs, blocked / "x.mp4", FAST)
    kept = Path(str(caught.value).rpartition(" ")[2])
    assert len(list(DrivingVideo(kept))) == 5
    shutil.rmtree(kept.parent)
