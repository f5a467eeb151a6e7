"""Parallel-coordinates plot of a search as a self-contained SVG file."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, Literal

from pipelines.tune.search_space import Space
from pipelines.tune.trials import Trial

# Pixels: distance of axes, height of axes, and margins.
_STEP, _HEIGHT, _SIDE, _TOP = 170, 320, 110, 60

_COLORS = {"finished": "#1f77b4", "stopped": "#9aa5b1"}

#: Position of a value on its axis, 0 (bottom) to 1, and the labels of the axis by position.
_Axis = tuple[Callable[[Any], float], dict[float, str]]


def parallel_coordinates(
    trials: Sequence[Trial], space: Space, metric: str, mode: Literal["min", "max"]
) -> str:
    """Draw a line for every trial over an axis for every setting and one for the metric.

    Args:
        trials: best first; only usable ones are drawn, and the first is emphasised.
        space: the search space.
        metric: the compared metric, on the last axis; the better end is at the top.
        mode: which end is better.
    """
    shown = [trial for trial in trials if trial.usable]
    rows = [{**trial.settings, metric: trial.value} for trial in shown]
    axes: dict[str, _Axis] = {}
    for name, (draw, values) in space.items():
        if draw in ("choice", "grid"):
            axes[name] = _listed(values)
        else:
            axes[name] = _spread(values[0], values[1], log="log" in draw)
    measured = [row[metric] for row in rows]
    axes[metric] = _spread(min(measured), max(measured), flip=mode == "min")
    width = 2 * _SIDE + _STEP * (len(axes) - 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT + 2 * _TOP}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    # The best one lies on top.
    for trial, row in reversed(list(zip(shown, rows, strict=True))):
        points = " ".join(
            f"{_SIDE + _STEP * i},{_y(place(row[name])):.1f}"
            for i, (name, (place, _)) in enumerate(axes.items())
            if name in row
        )
        best = trial is shown[0]
        color = "#d62728" if best else _COLORS[trial.state]
        about = f"{trial.name}, {trial.state}: {metric} {trial.value:.4g}"
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{color}" '
            f'stroke-width="{3 if best else 1.5}"><title>{escape(about)}</title></polyline>'
        )
    for i, (name, (_, labels)) in enumerate(axes.items()):
        x = _SIDE + _STEP * i
        parts.append(f'<path d="M{x} {_TOP}v{_HEIGHT}" stroke="black"/>')
        parts.append(
            # Long names at two heights.
            f'<text x="{x}" y="{_TOP - 16 - 16 * (i % 2)}" text-anchor="middle" font-weight="bold">'
            f"{escape(name)}</text>"
        )
        parts += [
            f'<text x="{x + 5}" y="{_y(at) + 4:.1f}">{escape(text)}</text>'
            for at, text in labels.items()
        ]
    parts.append(
        f'<text x="10" y="{_HEIGHT + 2 * _TOP - 15}">red: {escape(shown[0].name)}, the best; '
        "blue: finished; grey: stopped early</text></svg>\n"
    )
    return "\n".join(parts)


def _y(place: float) -> float:
    return _TOP + _HEIGHT * (1 - place)


def _listed(values: list[Any]) -> _Axis:
    def place(value: Any) -> float:
        index = values.index(value) if value in values else 0
        return (index + 0.5) / len(values)

    return place, {place(value): str(value) for value in values}


def _spread(low: float, high: float, *, log: bool = False, flip: bool = False) -> _Axis:
    scale = math.log if log else float

    def place(value: float) -> float:
        width = scale(high) - scale(low)
        share = (scale(value) - scale(low)) / width if width else 0.5
        share = min(max(share, 0.0), 1.0)
        return 1 - share if flip else share

    return place, {place(end): f"{end:.4g}" for end in (low, high)}
