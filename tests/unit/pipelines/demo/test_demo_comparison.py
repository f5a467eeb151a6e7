import numpy as np
import pytest

from pipelines.demo.comparison import (
    IGNORING,
    REPEATED,
    TRAINED,
    UNTRAINED,
    Trial,
    Truth,
    compare,
    held_out_trials,
    known_truth,
    score,
)
from pipelines.demo.contact_sheet import contact_sheet, save_picture
from pipelines.demo.faces import load_portrait
from pipelines.demo.stages import Stages, family_memory
from pipelines.demo.videos import make_demo_videos
from preprocessing.detect import make_detector
from preprocessing.geometry import crop_resize, reference_crop_box
from xnemo.animate import Portrait


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    people = ("collins", "hopper", "sitter-3")
    return make_demo_videos(folder, clips_per_identity=1, seconds=0.6, identities=people)


class PerfectAnimator:
    """Answers with the frames of the truth, or with what is asked of it."""

    def __init__(self, answer):
        self.answer = answer
        self.detector = make_detector()

    def prepare_portrait(self, image):
        box = np.asarray(self.detector.detect(image)[0].box, np.float64)
        wide = crop_resize(image, reference_crop_box(box, image.shape[:2]), 64)
        return Portrait(box, wide, wide)

    def animate(self, image, driving, config):
        return iter(self.answer(driving))


def test_truth_is_the_portrait_moved_as_the_driver(clips):
    trial = held_out_trials(clips, ("collins", "sitter-3"))[0]
    assert (trial.portrait.identity, trial.clip.identity) == ("collins", "hopper")
    truth = known_truth(trial, PerfectAnimator(None), every=2)
    assert len(truth.driving) == len(truth.target) == len(trial.clip.read_motion()[0][::2])
    # The clip begins at rest: the first frame of the truth is the portrait.
    np.testing.assert_array_equal(truth.target[0], truth.wide)
    assert abs(truth.target[-1].astype(int) - truth.wide).mean() > 2
    x0, y0, x1, y1 = truth.face
    assert 0 < x0 < 32 < x1 < 64
    assert 0 < y0 < 32 < y1 < 64


def test_score_tells_following_from_standing_still():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 256, (5, 16, 16, 3), np.uint8)
    truth = Truth([], target, target[0], np.array([2, 2, 14, 14]))
    assert score("", target, truth).error == 0
    assert score("", target, truth).follows == pytest.approx(1)
    still = np.repeat(target[:1], 5, 0)
    assert score("", still, truth).follows == 0
    assert score("", still, truth).error > 10
    against = 255 - target
    assert score("", against, truth).follows == pytest.approx(-1)
    # What happens outside the face does not count.
    outside = target.copy()
    outside[:, :2] = 0
    assert score("", outside, truth).error == 0


def test_contenders_are_held_against_the_same_truth(clips):
    collins = next(c for c in clips if c.identity == "collins")
    trial = Trial(load_portrait("collins"), collins)
    truth = known_truth(trial, PerfectAnimator(None), every=3)

    def follow(driving):
        still = all((frame == driving[0]).all() for frame in driving)
        return [truth.wide] * len(driving) if still else truth.target

    trained = PerfectAnimator(follow)
    untrained = PerfectAnimator(lambda driving: [np.zeros_like(truth.wide)] * len(driving))
    shares = []
    scores = compare(trained, untrained, [trial], None, 3, lambda share, note: shares.append(share))
    by_name = {s.contender: s for s in scores}
    assert list(by_name) == [TRAINED, IGNORING, UNTRAINED, REPEATED]
    assert by_name[TRAINED].error == 0
    assert by_name[TRAINED].follows == pytest.approx(1)
    assert by_name[IGNORING] == SimpleScore(by_name[REPEATED])
    assert by_name[UNTRAINED].error > by_name[REPEATED].error > 0
    assert shares == sorted(shares)


class SimpleScore:
    """Equal to a score of the same numbers, whoever it is of."""

    def __init__(self, score):
        self.numbers = (score.error, score.follows)

    def __eq__(self, other):
        return (other.error, other.follows) == self.numbers

    __hash__ = None


def test_contact_sheet_shows_rows_over_each_other(tmp_path):
    clip = [np.full((20, 20, 3), shade, np.uint8) for shade in (10, 100, 200)]
    sheet = contact_sheet(clip[0], [("one", clip), ("two", clip[::-1])], columns=3, side=40)
    assert sheet.dtype == np.uint8
    shades = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    assert {(10, 10, 10), (100, 100, 100), (200, 200, 200)} <= shades
    save_picture(sheet, tmp_path / "sheet.png")
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]


def test_stages_are_timed_and_weighed_even_where_they_fail():
    stages = Stages()
    with pytest.raises(SimpleError), stages.measure("one"):
        raise SimpleError
    with stages.measure("two"):
        pass
    assert list(stages.seconds) == ["one", "two"]
    assert stages.peak_memory >= 0.5 * family_memory() > 10 * 2**20


class SimpleError(Exception):
    pass
