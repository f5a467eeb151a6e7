"""The ordered list of reasons for which a clip is dropped.

A filter is a function of a clip's scores and the thresholds; it returns None to keep the clip or the
reason to drop it. Filters read nothing but the index's columns, so a changed threshold is applied to
clips already scored without looking at a video again.
"""

from collections.abc import Callable, Mapping
from typing import Any

from preprocessing.config import FilterConfig

Scores = Mapping[str, Any]
Filter = Callable[[Scores, FilterConfig], str | None]


def _below(score: str, threshold: str, reason: str) -> Filter:
    def judge(scores: Scores, config: FilterConfig) -> str | None:
        value = scores.get(score)
        return reason if value is not None and value < getattr(config, threshold) else None

    return judge


def _above(score: str, threshold: str, reason: str) -> Filter:
    def judge(scores: Scores, config: FilterConfig) -> str | None:
        value = scores.get(score)
        return reason if value is not None and abs(value) > getattr(config, threshold) else None

    return judge


#: Every filter by the reason it gives, in the order they judge.
FILTERS: dict[str, Filter] = {
    "face_too_small": _below("face_px", "min_face_px", "face_too_small"),
    "picture_too_small": _below("size", "min_size", "picture_too_small"),
    "unsure_face": _below("detection", "min_detection", "unsure_face"),
    "face_lost": _below("detected_fraction", "min_detected", "face_lost"),
    "several_faces": _above("others", "max_others", "several_faces"),
    "out_of_frame": _above("out_of_frame", "max_out_of_frame", "out_of_frame"),
    "too_much_padding": _above("pad_fraction", "max_pad", "too_much_padding"),
    "turned_away": _above("yaw", "max_yaw", "turned_away"),
    "tilted_up_or_down": _above("pitch", "max_pitch", "tilted_up_or_down"),
    "tilted_sideways": _above("roll", "max_roll", "tilted_sideways"),
    "blurred": _below("sharpness", "min_sharpness", "blurred"),
    "too_dark": _below("exposure", "min_exposure", "too_dark"),
    "too_bright": _above("exposure", "max_exposure", "too_bright"),
    "flat": _below("contrast", "min_contrast", "flat"),
    "still": _below("motion", "min_motion", "still"),
    "frozen": _above("repeated", "max_repeated", "frozen"),
    "occluded": _above("occlusion", "max_occlusion", "occluded"),
    "overlaid": _above("overlay", "max_overlay", "overlaid"),
}


def judge(scores: Scores, config: FilterConfig) -> str | None:
    """Return the first reason to drop a clip, or None to keep it."""
    for one in FILTERS.values():
        reason = one(scores, config)
        if reason is not None:
            return reason
    return None
