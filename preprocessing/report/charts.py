"""Small charts as inline SVG."""

from collections.abc import Mapping
from typing import Any

_WIDTH, _HEIGHT, _BASE = 260, 96, 80


def histogram(data: Mapping[str, Any]) -> str:
    """Return stacked bars of kept and dropped counts, with thresholds as dashed lines."""
    edges, kept, dropped = data["edges"], data["kept"], data["dropped"]
    most = max((a + b for a, b in zip(kept, dropped, strict=True)), default=0) or 1
    low, high = edges[0], edges[-1]
    step = _WIDTH / len(kept)
    parts = []
    for number, (a, b) in enumerate(zip(kept, dropped, strict=True)):
        x = number * step
        up = a / most * (_BASE - 4)
        rest = b / most * (_BASE - 4)
        parts.append(_rect("k", x, _BASE - up, step, up))
        parts.append(_rect("d", x, _BASE - up - rest, step, rest))
    for value in data["thresholds"].values():
        for limit in {value, -value} if low < 0 else {value}:
            if low <= limit <= high:
                x = (limit - low) / (high - low) * _WIDTH
                parts.append(f'<line class="t" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_BASE}"/>')
    ends = (("start", 0, low), ("middle", _WIDTH / 2, (low + high) / 2), ("end", _WIDTH, high))
    parts += [
        f'<text x="{x}" y="{_HEIGHT - 4}" text-anchor="{anchor}">{value:.3g}</text>'
        for anchor, x, value in ends
    ]
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(parts)}</svg>'


def bar(percent: float, lost_percent: float) -> str:
    """Return one horizontal bar: the share that is left, and beside it the share just dropped."""
    return (
        '<svg viewBox="0 0 100 6" preserveAspectRatio="none" style="height:12px">'
        f"{_rect('k', 0, 0, percent, 6)}{_rect('d', percent, 0, lost_percent, 6)}</svg>"
    )


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    if width <= 0 or height <= 0:
        return ""
    return (
        f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"/>'
    )
