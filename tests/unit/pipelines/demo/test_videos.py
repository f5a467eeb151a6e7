import hashlib
import platform

import av
import numpy as np
import pytest

from pipelines.demo.faces import load_portrait
from pipelines.demo.motion import sample_motion
from pipelines.demo.videos import CLIP_FORMATS, HELD_OUT_IDENTITIES, make_demo_videos, write_video
from pipelines.demo.warp import render


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def upright(frame):
    return np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return folder, make_demo_videos(
        folder, seed=3, clips_per_identity=1, seconds=0.6, identities=("collins", "hopper")
    )


def test_the_same_arguments_give_the_same_bytes(clips, tmp_path):
    folder, _ = clips
    again = tmp_path / "again"
    make_demo_videos(
        again, seed=3, clips_per_identity=1, seconds=0.6, identities=("collins", "hopper")
    )
    assert digests(again) == digests(folder)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names vector code of x86")
def test_an_old_cpu_and_a_new_one_write_the_same_bytes(tmp_path, monkeypatch):
    style, times = CLIP_FORMATS[0], np.arange(20) / 30
    pictures = list(render(load_portrait("sitter-1"), sample_motion((0, 2, 0), times)))
    write_video(tmp_path / "with.mp4", iter(pictures), times, style)
    monkeypatch.setattr("pipelines.demo.videos.x264_vectors", lambda: "asm=sse4.2")
    write_video(tmp_path / "without.mp4", iter(pictures), times, style)
    assert (tmp_path / "with.mp4").read_bytes() == (tmp_path / "without.mp4").read_bytes()


def test_held_out_people_and_motions_are_in_no_training_clip(clips):
    _, made = clips
    assert [(c.identity, c.split) for c in made] == [
        ("collins", "held_out"),
        ("hopper", "train"),
        ("hopper", "held_out"),
    ]
    assert not {c.identity for c in made if c.split == "train"} & set(HELD_OUT_IDENTITIES)
    assert len({c.seed for c in made}) == len(made)
    assert all(c.path.parent.name == c.split for c in made)


def test_every_frame_of_a_clip_shows_its_row_of_motion(clips):
    _, made = clips
    for clip in made:
        times, motion = clip.read_motion()
        with av.open(str(clip.path)) as container:
            frames = [upright(frame) for frame in container.decode(video=0)]
        assert len(frames) == len(times) == len(motion)
        wanted = list(render(load_portrait(clip.identity), motion))
        error = np.array([[abs(f.astype(int) - w).mean() for w in wanted] for f in frames])
        # Each decoded frame is nearer to its own motion than to any other's; the first ones, still
        # almost at rest, differ by less than the codec's own loss.
        nearest = error.argmin(1)
        np.testing.assert_array_equal(nearest[6:], np.arange(6, len(frames)))
        assert (nearest[:6] <= 6).all()
        assert error.diagonal().max() < 6


@pytest.mark.parametrize("style", CLIP_FORMATS, ids=lambda s: f"{s.codec}{s.suffix}-{s.fps}")
def test_formats_keep_pictures_and_times(style, tmp_path):
    picture = load_portrait("sitter-6").image
    marked = [picture.copy() for _ in range(6)]
    for number, frame in enumerate(marked):
        frame[:40, : 40 * (number + 1)] = 255
    times = np.array([0, 1, 3, 4, 7, 8]) if style.variable_rate else np.arange(6)
    path = tmp_path / f"clip{style.suffix}"
    write_video(path, iter(marked), times / style.fps, style)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    np.testing.assert_allclose([f.time for f in frames], times / style.fps, atol=2e-3)
    for frame, wanted in zip(frames, marked, strict=True):
        assert abs(upright(frame).astype(int) - wanted).mean() < 8
    assert (frames[0].rotation == -90) == style.rotated
