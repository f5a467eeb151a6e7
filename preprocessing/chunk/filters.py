"""The ordered list of reasons for which a clip is dropped.

A filter reads nothing but the index's columns, so a changed threshold is applied to clips already
scored without decoding a video again.
"""

from collections.abc import Callable, Mapping
from typing import Any

from preprocessing.config import FilterConfig

Scores = Mapping[str, Any]
Filter = Callable[[Scores, FilterConfig], str | None]

#: The reason to drop a clip with too few frames. Cutting decides it, not a threshold.
TOO_SHORT = "too_short"

# Reason, score, and the threshold: a least value (min_) or a largest magnitude (max_).
_RULES = (
    ("face_too_small", "face_px", "min_face_px"),
    ("picture_too_small", "picture_px", "min_picture_px"),
    ("unsure_face", "detection", "min_detection"),
    ("face_lost", "detected_fraction", "min_detected"),
    ("several_faces", "others", "max_others"),
    ("out_of_frame", "out_of_frame", "max_out_of_frame"),
    ("too_much_padding", "pad_fraction", "max_pad"),
    ("turned_away", "yaw", "max_yaw"),
    ("tilted_up_or_down", "pitch", "max_pitch"),
    ("tilted_sideways", "roll", "max_roll"),
    ("blurred", "sharpness", "min_sharpness"),
    ("too_dark", "exposure", "min_exposure"),
    ("too_bright", "exposure", "max_exposure"),
    ("flat", "contrast", "min_contrast"),
    ("still", "motion", "min_motion"),
    ("frozen", "repeated", "max_repeated"),
    ("occluded", "occlusion", "max_occlusion"),
    ("overlaid", "overlay", "max_overlay"),
)


def _filter(reason: str, score: str, threshold: str) -> Filter:
    def below(scores: Scores, config: FilterConfig) -> str | None:
        value = scores.get(score)
        return reason if value is not None and value < getattr(config, threshold) else None

    def above(scores: Scores, config: FilterConfig) -> str | None:
        value = scores.get(score)
        return reason if value is not None and abs(value) > getattr(config, threshold) else None

    return below if threshold.startswith("min_") else above


#: Every filter by its reason, in the order they are applied.
FILTERS: dict[str, Filter] = {rule[0]: _filter(*rule) for rule in _RULES}

#: The thresholds that apply to each score, by name.
THRESHOLDS: dict[str, tuple[str, ...]] = {
    score: tuple(t for _, s, t in _RULES if s == score) for _, score, _ in _RULES
}


def drop_reason(scores: Scores, config: FilterConfig) -> str | None:
    """Return the first reason to drop a clip, or None to keep it.

    Args:
        scores: a clip's row; one whose `reason` is `TOO_SHORT` stays dropped.
        config: thresholds.
    """
    if scores.get("reason") == TOO_SHORT:
        return TOO_SHORT
    return next((r for one in FILTERS.values() if (r := one(scores, config)) is not None), None)
