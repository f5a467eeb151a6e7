"""Synthetic people who were never trained on and all make the same motions: exact ground truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preprocessing import geometry
from preprocessing.faces.detector import Detector
from xnemo.animation.animator import Animator
from xnemo.animation.config import AnimateConfig
from xnemo.animation.motion import to_tensor
from xnemo.animation.tracking import find_faces
from xnemo.data.motion_numbers import READOUT_COLUMNS
from xnemo.evaluation.probes import face_latents, fit_linear_reader
from xnemo.evaluation.reenactment import motion_correlation
from xnemo.model.motion.encoder import MotionEncoder

Images = NDArray[np.uint8]
Numbers = NDArray[np.floating]

# Person seeds count down from here; those of `xnemo synthesize` count up from 0.
_LAST_PERSON = 2**32 - 1
# Motion seeds of the strangers and of those whom the linear reader is fitted to.
_MOTION, _FIT_MOTION = 777_001, 888_000
_FPS = 5.0
# Centres of driving crops are smoothed over 5 frames at 25 fps.
_SIGMA = 5.0 * _FPS / 25
_SIDE = 192
# Side of the crops in which following of the face is measured.
_FACE_SIDE = 48
#: Motion numbers that are shown by name.
SHOWN = (
    "yaw", "pitch", "roll", "gaze_yaw", "gaze_pitch", "eyeBlinkLeft", "jawOpen", "mouthSmileLeft",
    "mouthPucker", "browDownLeft", "browInnerUp",
)  # fmt: skip
# Columns that move less than this in all frames cannot be measured.
_LEAST_STD = 0.02


@dataclass(frozen=True)
class Stranger:
    """One person's frames; frame 0 has a neutral face and is the portrait.

    The images are uint8 RGB (1 + M, S, S, 3); `boxes` (1 + M, 4) are the detected faces; `numbers`
    (1 + M, K) are `READOUT_COLUMNS`.
    """

    name: str
    frames: Images
    boxes: NDArray[np.float64]
    numbers: Numbers

    def crops(self, size: int) -> Images:
        """Return the motion encoder's crops (1 + M, size, size, 3)."""
        boxes = geometry.driving_crop_boxes(self.boxes, self.frames.shape[1:3], _SIGMA)
        cut = [
            geometry.crop_resize(frame, box, size)
            for frame, box in zip(self.frames, boxes, strict=True)
        ]
        return np.stack(cut)

    def places(self) -> NDArray[np.float32]:
        """Return position and scale (1 + M, 3) relative to the neutral frame."""
        return geometry.box_vector(self.boxes, self.boxes[0]).astype(np.float32)


def make_strangers(
    people: int,
    motions: int,
    detector: Detector,
    *,
    on_person: Callable[[int, int], None] | None = None,
) -> list[Stranger]:
    """Render people who all make the same motions.

    Args:
        people: number of people.
        motions: frames of each besides the neutral one, 0.2 s apart.
        detector: finds their faces.
        on_person: receives people done and people in all.
    """
    return _render(range(people), [_MOTION] * people, motions, detector, on_person)


def make_reader_people(
    people: int,
    motions: int,
    detector: Detector,
    *,
    first: int,
    on_person: Callable[[int, int], None] | None = None,
) -> list[Stranger]:
    """Render other people, numbered from `first`, each with motions of their own."""
    seeds = [_FIT_MOTION + number for number in range(people)]
    return _render(range(first, first + people), seeds, motions, detector, on_person)


def _render(
    people: Sequence[int],
    motion_seeds: Sequence[int],
    motions: int,
    detector: Detector,
    on_person: Callable[[int, int], None] | None,
) -> list[Stranger]:
    from preprocessing.synthetic import MOTION_COLUMNS, render, sample_motion, sample_person

    picked = [MOTION_COLUMNS.index(name) for name in READOUT_COLUMNS]
    found = []
    for done, (number, seed) in enumerate(zip(people, motion_seeds, strict=True)):
        if on_person:
            on_person(done, len(people))
        rows = sample_motion(seed, np.arange(1 + motions) / _FPS)
        rows[0] = 0
        frames = render(sample_person(_LAST_PERSON - number), rows, _SIDE)
        boxes = find_faces(frames, detector, name=f"synthetic person {number}").boxes
        found.append(Stranger(f"stranger {number}", frames, boxes, rows[:, picked]))
    return found


@dataclass(frozen=True)
class LatentScores:
    """What the motion latents of strangers tell."""

    # R² of each motion number that moves, read by a linear reader fitted to other people.
    r2: dict[str, float]
    # Share of the latent's variance that lies between people.
    identity_share: float
    # How often the nearest latent of another motion is the same person's, and by chance.
    identity_accuracy: float
    identity_chance: float


class LinearReader:
    """Reads motion numbers from images through an encoder; fitted to people it is not tested on."""

    def __init__(self, encoder: MotionEncoder, people: Sequence[Stranger]) -> None:
        self.encoder = encoder
        self.size = int(encoder.config["image_size"])
        latents = [face_latents(encoder, person.crops(self.size)) for person in people]
        groups = np.concatenate([[n] * len(x) for n, x in enumerate(latents)])
        numbers = np.concatenate([person.numbers for person in people])
        self._read = fit_linear_reader(np.concatenate(latents), numbers, groups)

    def read(self, latents_ND: Numbers) -> Numbers:
        """Return the motion numbers (N, K) of latents."""
        return self._read(latents_ND)

    def read_crops(self, crops_NHWC: Images) -> Numbers:
        """Return the motion numbers (N, K) of crops of any size."""
        crops = np.stack([geometry.resize(crop, self.size) for crop in crops_NHWC])
        return self.read(face_latents(self.encoder, crops))


def score_latents(reader: LinearReader, strangers: Sequence[Stranger]) -> LatentScores:
    """Measure what the latents of strangers tell of motion, and what of the person."""
    latents = np.stack([face_latents(reader.encoder, s.crops(reader.size)) for s in strangers])
    true = np.concatenate([s.numbers for s in strangers])
    read = reader.read(latents.reshape(-1, latents.shape[-1]))
    moving = np.flatnonzero(true.std(0) > _LEAST_STD)
    r2 = 1 - ((read - true) ** 2).mean(0)[moving] / true.var(0)[moving]
    people, motions = latents.shape[:2]
    between = latents.mean(1).var(0).sum() / latents.reshape(-1, latents.shape[-1]).var(0).sum()
    scaled = latents / np.maximum(latents.std((0, 1)), 1e-8)
    hits = 0
    for person in range(people):
        for motion in range(motions):
            far = ((scaled - scaled[person, motion]) ** 2).sum(-1)
            # The same motion of another person is where an ideal latent is nearest.
            far[:, motion] = np.inf
            hits += int(far.min(1).argmin()) == person
    return LatentScores(
        r2={READOUT_COLUMNS[k]: float(value) for k, value in zip(moving, r2, strict=True)},
        identity_share=float(between),
        identity_accuracy=hits / (people * motions),
        identity_chance=1 / people,
    )


# Methods that are compared.
TRAINED = "trained"
OWN = "trained, driven by the person's own frames"
STILL = "trained, driving face held still, its position given"
WITHHELD = "trained, position withheld"
REPEATED = "portrait repeated"
COPIED = "driving frames copied"


@dataclass(frozen=True)
class FollowScores:
    """One method against the truth: means over people."""

    method: str
    # Mean absolute difference, as a fraction of the full range.
    l1: float
    # Correlation of pixels' changes over time with the true ones, in the whole frame and in a crop
    # of the true face.
    follow: float
    follow_face: float


@dataclass(frozen=True)
class CrossResult:
    """Scores of all methods, motion read back from generated frames, and pictures."""

    scores: list[FollowScores]
    # Correlation of each motion number read from images with the truth: from generated frames, and
    # from the true frames (the ceiling).
    read_back: dict[str, float]
    read_true: dict[str, float]
    # For every stranger: portrait, driving, generated and true frames.
    pictures: list[tuple[Images, Images, Images, Images]]


def score_following(
    animator: Animator,
    strangers: Sequence[Stranger],
    reader: LinearReader,
    config: AnimateConfig,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> CrossResult:
    """Animate each stranger's portrait with the next one's frames, and compare with the truth."""
    methods = (TRAINED, OWN, STILL, WITHHELD, REPEATED, COPIED)
    values: dict[str, list[tuple[float, float, float]]] = {method: [] for method in methods}
    pictures, read, read_true, true = [], [], [], []
    for number, person in enumerate(strangers):
        driver = strangers[(number + 1) % len(strangers)]
        wide, truth, faces = _framed(animator, person)
        copied = _framed(animator, driver)[1]
        size = animator.networks.config.motion.image_size
        crops, places = driver.crops(size)[1:], driver.places()[1:]
        neutral = np.repeat(driver.crops(size)[:1], len(crops), axis=0)
        inputs = {
            TRAINED: (crops, places),
            OWN: (person.crops(size)[1:], person.places()[1:]),
            STILL: (neutral, places),
            WITHHELD: (crops, np.tile(np.array([0, 0, 1], np.float32), (len(crops), 1))),
        }
        made = {REPEATED: np.repeat(wide[None], len(truth), axis=0), COPIED: copied}
        for method, (images, vectors) in inputs.items():
            if on_progress:
                on_progress(f"{person.name}: {method}", number, len(strangers))
            made[method] = _generate(animator, person, images, vectors, config)
        for method, frames in made.items():
            values[method].append(_compare(frames, truth, faces))
        read.append(reader.read_crops(_cut(made[TRAINED], faces, reader.size)))
        read_true.append(reader.read_crops(_cut(truth, faces, reader.size)))
        true.append(person.numbers[1:])
        driving = np.stack([geometry.resize(x, wide.shape[0]) for x in copied])
        pictures.append((wide, driving, made[TRAINED], truth))
    scores = [
        FollowScores(method, *(float(np.mean(column)) for column in zip(*rows, strict=True)))
        for method, rows in values.items()
    ]
    numbers = np.concatenate(true)
    return CrossResult(
        scores,
        _correlations(np.concatenate(read), numbers),
        _correlations(np.concatenate(read_true), numbers),
        pictures,
    )


def _framed(animator: Animator, person: Stranger) -> tuple[Images, Images, Numbers]:
    """Return portrait, true frames and face boxes in the pixels of the animator's results."""
    size = animator.networks.config.image_size
    box = geometry.reference_crop_box(person.boxes[0], person.frames.shape[1:3])
    frames = np.stack([geometry.crop_resize(x, box, size) for x in person.frames])
    boxes = geometry.transform_boxes(person.boxes, geometry.crop_affine(box, size))
    return frames[0], frames[1:], boxes[1:]


@torch.no_grad()
def _generate(
    animator: Animator,
    person: Stranger,
    crops_FHWC: Images,
    places_F3: NDArray[np.float32],
    config: AnimateConfig,
) -> Images:
    encoder = animator.networks.motion_encoder
    parameter = next(encoder.parameters())
    tokens: Tensor = encoder(
        to_tensor(crops_FHWC).to(parameter), torch.from_numpy(places_F3).to(parameter)
    ).tokens
    portrait = animator.prepare_portrait(person.frames[0], config)
    # The face was found before, in this very frame.
    portrait = replace(portrait, box=person.boxes[0])
    latents = animator.denoise(portrait, tokens.float().cpu(), config)
    return np.stack(list(animator.decode(latents)))


def _cut(frames_FHWC: Images, boxes_F4: Numbers, size: int) -> Images:
    hw = frames_FHWC.shape[1:3]
    pairs = zip(frames_FHWC, boxes_F4, strict=True)
    return np.stack([geometry.crop_resize(x, geometry.tight_box(b, hw), size) for x, b in pairs])


def _compare(made: Images, truth: Images, faces: Numbers) -> tuple[float, float, float]:
    error = np.abs(made.astype(np.float32) - truth.astype(np.float32)).mean() / 255
    face = motion_correlation(_cut(made, faces, _FACE_SIDE), _cut(truth, faces, _FACE_SIDE))
    return float(error), motion_correlation(made, truth), face


def _correlations(read_NK: Numbers, true_NK: Numbers) -> dict[str, float]:
    found = {}
    for k, name in enumerate(READOUT_COLUMNS):
        if true_NK[:, k].std() > _LEAST_STD:
            still = read_NK[:, k].std() < 1e-9
            value = 0.0 if still else np.corrcoef(read_NK[:, k], true_NK[:, k])[0, 1]
            found[name] = float(value)
    return found
