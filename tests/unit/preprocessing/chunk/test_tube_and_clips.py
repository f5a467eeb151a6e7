import av
import numpy as np
import pytest

from preprocessing.chunk.clips import ClipCutter
from preprocessing.chunk.scan import Detection, Scanned
from preprocessing.chunk.tube import buffer_crop, covers, cut, pad_fraction, stored_size, tube_box
from preprocessing.config import TubeConfig
from preprocessing.decode import Tick
from preprocessing.decode.frame import Frame, frame_from_rgb
from preprocessing.geometry import crop_affine, union_box
from preprocessing.storage.sample import DETECTED

CONFIG = TubeConfig()


def detection(box):
    return Detection(np.array(box, np.float32), np.zeros((5, 2), np.float32), 0.9, DETECTED)


def gradient(height, width):
    """A picture whose colour says where a pixel is."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack(
        [columns * 255 // width, rows * 255 // height, np.full_like(rows, 128)], axis=-1
    ).astype(np.uint8)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        # Inside: twice the larger side about the centre.
        ((400, 300, 500, 420), (330, 240, 570, 480)),
        # Over the left border: moved inside.
        ((10, 300, 110, 420), (0, 240, 240, 480)),
        # Over two borders: moved inside as well.
        ((1200, 10, 1270, 110), (1080, 0, 1280, 200)),
        # Larger than the frame: shrinks to its height, or to 1.5 times the face.
        ((700, 100, 1000, 550), (490, 0, 1210, 720)),
        ((500, 100, 900, 700), (250, -50, 1150, 850)),
        ((100, 100, 500, 700), (0, -50, 900, 850)),
    ],
)
def test_tube_is_the_reference_framing(box, expected):
    tube = tube_box(np.array(box, float), (720, 1280), CONFIG)
    np.testing.assert_allclose(tube, expected, atol=2)
    assert tube[2] - tube[0] == tube[3] - tube[1]
    assert not (tube % 2).any()


def test_stored_size_is_the_tube_s_own_below_the_limit():
    assert stored_size(np.array([0, 0, 437, 437.0]), CONFIG) == 432
    assert stored_size(np.array([0, 0, 900, 900.0]), CONFIG) == 512


@pytest.mark.parametrize(
    "frame_hw", [(256, 256), (257, 255), (720, 1280), (1280, 720), (64, 300), (16, 16)]
)
def test_no_tube_is_padded_that_need_not_be(frame_hw):
    rng = np.random.default_rng(0)
    height, width = frame_hw
    for _ in range(300):
        corners = np.sort(rng.uniform(0, 1, (2, 2)) * [width, height], axis=0).reshape(4)
        side = max(*(corners[2:] - corners[:2]))
        tube = tube_box(corners, frame_hw, CONFIG)
        room = min(frame_hw) // 2 * 2
        fits = tube[2] - tube[0] <= room
        assert fits == (pad_fraction(tube, frame_hw) == 0)
        assert fits or tube[2] - tube[0] <= 1.5 * side + 2
        # All of the face that lies inside the frame lies inside the tube.
        slack = 2 if side > 4 else side + 2
        assert (tube[:2] <= corners[:2] + slack).all()
        ends = np.minimum(corners[2:], np.array([width, height]) // 2 * 2)
        assert (tube[2:] >= ends - slack).all()


@pytest.mark.parametrize("box", [(400, 300, 500, 420), (10, 8, 110, 128), (500, 100, 900, 700),
                                 (1200, 10, 1270, 110), (700, 100, 1000, 550)])  # fmt: skip
def test_cutting_from_what_was_kept_equals_cutting_from_the_frame(box):
    frame = frame_from_rgb(gradient(720, 1280), pts_us=0, index=0)
    tube = tube_box(np.array(box, float), (720, 1280), CONFIG)
    crop = buffer_crop(frame, np.array(box, np.float32), CONFIG)
    assert covers(crop.box, tube, (720, 1280))
    size = stored_size(tube, CONFIG)
    ours = Frame(cut(crop, tube, (720, 1280), size), pts_us=0, index=0).rgb()
    x0, y0, x1, y1 = (int(edge) for edge in tube)
    rows = np.clip((np.arange(size) + 0.5) * (y1 - y0) / size + y0, -1e9, 1e9)
    columns = (np.arange(size) + 0.5) * (x1 - x0) / size + x0
    inside = np.outer((rows > 4) & (rows < 716), (columns > 4) & (columns < 1276))
    expected_red = np.broadcast_to(columns * 255 / 1280, (size, size))
    expected_green = np.broadcast_to(rows[:, None] * 255 / 720, (size, size))
    assert np.abs(ours[..., 0][inside] - expected_red[inside]).mean() < 2
    assert np.abs(ours[..., 1][inside] - expected_green[inside]).mean() < 2
    outside = np.outer((rows > -4) & (rows < 724), (columns > -4) & (columns < 1284)) == 0
    if outside.any():
        # Two pixels share one chroma sample, so colour bleeds by one.
        assert ours[outside].max() <= 24
        assert ours[outside].mean() < 0.5
        assert outside.mean() == pytest.approx(pad_fraction(tube, (720, 1280)), abs=0.03)


def test_four_k_is_kept_at_the_memory_of_hd():
    frame = frame_from_rgb(np.zeros((2160, 3840, 3), np.uint8), pts_us=0, index=0)
    crop = buffer_crop(frame, np.array([1000, 500, 2000, 1700], np.float32), CONFIG)
    assert crop.shrink > 1
    assert crop.bytes < 1.5 * 1300 * 1300
    # Never smaller than what will be stored of it.
    assert 2400 / crop.shrink >= 512


@pytest.mark.parametrize("frame_hw", [(722, 1278), (718, 1282), (721, 1279)])
def test_faces_at_the_far_edges_of_frames_of_any_size_are_covered(frame_hw):
    """What is kept shrunk ends on whole pixel pairs; the frame need not."""
    height, width = frame_hw
    frame = frame_from_rgb(gradient(height, width), pts_us=0, index=0)
    face = np.array([width - 404, height - 504, width - 4, height - 4], np.float32)
    config = TubeConfig(size=128)
    crop = buffer_crop(frame, face, config)
    assert crop.shrink > 2
    tube = tube_box(face, frame_hw, config)
    assert covers(crop.box, tube, frame_hw)
    ours = Frame(cut(crop, tube, frame_hw, 128), pts_us=0, index=0).rgb().astype(int)
    whole = buffer_crop(frame, face, TubeConfig(size=1024))
    assert whole.shrink == 1
    wanted = Frame(cut(whole, tube, frame_hw, 128), pts_us=0, index=0).rgb()
    assert np.abs(ours - wanted).mean() < 1.5


def test_affine_leads_from_source_to_stored_pixels():
    tube = tube_box(np.array([400, 300, 500, 420.0]), (720, 1280), CONFIG)
    affine = crop_affine(tube, stored_size(tube, CONFIG))
    corner = affine[:, :2] @ tube[:2] + affine[:, 2]
    np.testing.assert_allclose(corner, [0, 0], atol=1e-6)


class Feeder:
    """Feeds a cutter with frames of one picture and any boxes."""

    def __init__(self, config=CONFIG, core=(None, None), frame_hw=(240, 320)):
        self.cutter = ClipCutter(config, shot=0, fps=25.0, gap_ticks=15, core=core)
        picture = av.VideoFrame(frame_hw[1], frame_hw[0], "yuv420p")
        for plane in picture.planes:
            plane.update(bytes(plane.buffer_size))
        self.picture = picture
        self.clips = []

    def tick(self, number, **boxes):
        frame = Frame(self.picture, pts_us=number * 40_000, index=number)
        detections = {
            int(name[1:]): None if box is None else detection(box) for name, box in boxes.items()
        }
        self.clips += self.cutter.push(Scanned(Tick(number, number * 40_000, frame), detections))

    def end(self):
        self.clips += self.cutter.flush()
        return [(clip.frames[0].tick, clip.frames[-1].tick + 1) for clip in self.clips]


STILL = (120, 80, 170, 140)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (40, [(0, 40)]),
        (250, [(0, 250)]),
        # A remainder shorter than two seconds is never left over.
        (260, [(0, 130), (130, 260)]),
        (310, [(0, 250), (250, 310)]),
        (700, [(0, 250), (250, 500), (500, 700)]),
    ],
)
def test_long_tracks_are_cut_without_short_ends(frames, expected):
    feeder = Feeder()
    for number in range(frames):
        feeder.tick(number, p0=STILL)
    assert feeder.end() == expected


def test_gaps_are_bridged_and_ends_without_a_face_are_cut_off():
    feeder = Feeder()
    for number in range(80):
        lost = 30 <= number < 40 or number >= 70
        feeder.tick(number, p0=None if lost else (120 + number / 2, 80, 170 + number / 2, 140))
    assert feeder.end() == [(0, 70)]
    clip = feeder.clips[0]
    assert [f.detection.bridged for f in clip.frames] == [30 <= n < 40 for n in range(70)]
    np.testing.assert_allclose(clip.bbox[35], [137.5, 80, 187.5, 140], atol=0.5)


def test_a_face_that_wanders_off_starts_a_new_clip_and_every_tube_was_kept():
    feeder = Feeder(frame_hw=(480, 1280))
    for number in range(120):
        feeder.tick(number, p0=(100 + 6 * number, 200, 150 + 6 * number, 260))
    spans = feeder.end()
    assert len(spans) > 1
    assert [a for a, _ in spans[1:]] == [b for _, b in spans[:-1]]
    for clip in feeder.clips:
        assert all(covers(f.crop.box, clip.tube, clip.frame_hw) for f in clip.frames)
        side = clip.tube[2] - clip.tube[0]
        union = union_box(clip.bbox)
        assert side == pytest.approx(2 * (union[2:] - union[:2]).max(), abs=3)


@pytest.mark.parametrize(
    ("moved_at", "frames", "expected"),
    [
        # The sway back goes with what follows, so that both are long enough.
        (100, 130, [(0, 50), (50, 130)]),
        # The first keeps two seconds before the second gets any.
        (60, 75, [(0, 50), (50, 75)]),
        (40, 100, [(0, 40), (40, 100)]),
    ],
)
def test_what_comes_after_a_face_wandered_gets_a_head_start(moved_at, frames, expected):
    """To the left at first, then in the middle, at last to the right: the middle fits to both."""
    feeder = Feeder(frame_hw=(480, 1280))
    for number in range(frames):
        x = 460 if number < 25 else 510 if number < moved_at else 560
        feeder.tick(number, p0=(x, 200, x + 100, 320))
    spans = feeder.end()
    assert spans == expected
    for clip in feeder.clips:
        assert all(covers(f.crop.box, clip.tube, clip.frame_hw) for f in clip.frames)


def test_memory_is_bounded_by_cutting_earlier():
    config = TubeConfig(buffer_mb=32)
    feeder = Feeder(config, frame_hw=(1080, 1920))
    most = 0
    for number in range(250):
        feeder.tick(number, p0=(700, 300, 1050, 720), p1=(200, 300, 550, 720))
        held = sum(track.bytes for track in feeder.cutter._open.values())
        most = max(most, held)
    spans = feeder.end()
    assert most <= 33 * 2**20 + 2 * 3_200_000
    covered = {p: sum(len(c.frames) for c in feeder.clips if c.track == p) for p in (0, 1)}
    assert covered == {0: 250, 1: 250}
    assert len(spans) > 2


@pytest.mark.parametrize(
    ("first", "last", "owner"),
    [
        # Ends less than two seconds after the edge: whole, before it.
        (100, 540, "before"),
        # Begins less than two seconds before the edge: whole, after it.
        (460, 700, "after"),
        # Both: one of them has it, whole.
        (470, 540, "before"),
        # Neither: cut at the edge.
        (100, 900, "both"),
    ],
)
def test_a_track_across_the_edge_of_chunks_is_lost_by_neither_and_kept_by_one(first, last, owner):
    edge = 500
    before, after = Feeder(core=(None, edge)), Feeder(core=(edge, None))
    for number in range(first, last):
        if number < edge + 80:
            before.tick(number, p0=STILL)
        if number >= edge - 80:
            after.tick(number, p0=STILL)
    spans = {"before": before.end(), "after": after.end()}
    frames = [n for side in spans.values() for a, b in side for n in range(a, b)]
    assert sorted(frames) == list(range(first, last))
    if owner == "both":
        assert max(b for _, b in spans["before"]) == edge
        assert min(a for a, _ in spans["after"]) == edge
    else:
        assert spans["after" if owner == "before" else "before"] == []
