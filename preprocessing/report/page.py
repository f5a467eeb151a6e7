"""The report as one self-contained HTML page."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from preprocessing.report.charts import bar, histogram

# Most lines of a table; the file it is made from has them all.
_MOST_LINES = 200
# Explanation for a source without a clip, where none was dropped either.
_NO_CLIP = {
    "no_face": "no face was found",
    "damaged": "see Quarantine below",
    "no_motion": "no two frames are within half a second of each other",
}
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --line: #d9d9e0; --card: #fff;
  --page: #f7f7f9; --kept: #2f7d5b; --lost: #c4553b; }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --soft: #b0b4ba; --line: #363a3f;
  --card: #18191b; --page: #111113; --kept: #4cc38a; --lost: #ec7a5c; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 1200px; margin: 0 auto; padding: 24px; }
h1 { font-size: 24px; margin: 0 0 4px } h2 { font-size: 18px; margin: 36px 0 8px }
p, .soft { color: var(--soft); margin: 4px 0 }
.facts { display: flex; flex-wrap: wrap; gap: 12px; margin: 16px 0 }
.fact { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 16px; min-width: 120px }
.fact b { display: block; font-size: 22px }
table { border-collapse: collapse; background: var(--card); border: 1px solid var(--line);
  width: 100%; font-variant-numeric: tabular-nums }
td, th { padding: 4px 10px; border-bottom: 1px solid var(--line); text-align: right }
td:first-child, th:first-child { text-align: left }
td:nth-child(6) { white-space: nowrap }
td.wide { width: 40% } tr.none { color: var(--soft) }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(268px, 1fr)); gap: 12px }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 8px; overflow: hidden }
figure img { width: 100%; max-height: 7rem; object-fit: contain; object-position: left;
  display: block; border-radius: 4px }
figcaption { font-size: 12px; color: var(--soft); overflow-wrap: anywhere }
svg { display: block; width: 100%; height: auto }
.k { fill: var(--kept) } .d { fill: var(--lost) } .t { stroke: var(--ink); stroke-dasharray: 3 2 }
text { fill: var(--soft); font: 10px system-ui, sans-serif }
"""


def report_page(
    title: str,
    numbers: Mapping[str, Any],
    shown: Mapping[str, Sequence[tuple[Mapping[str, Any], bytes]]],
    quarantine: Sequence[Mapping[str, Any]],
) -> str:
    """Return the page.

    Args:
        title: heading of the page.
        numbers: from `report_numbers`.
        shown: for `kept` and for each reason, rows with their strips as JPEG.
        quarantine: rows of the quarantine table.
    """
    body = [
        f"<h1>{html.escape(title)}</h1>",
        _facts(numbers),
        "<h2>Funnel</h2>",
        "<p>Filters apply in this order; a clip is counted at the first that drops it.</p>",
        _funnel(numbers["funnel"]),
        _sheet("Kept", "kept", shown),
        *(
            _sheet(f"Dropped: {_words(reason)}", reason, shown)
            for reason in shown
            if reason != "kept"
        ),
        "<h2>Scores</h2>",
        "<p>Kept clips in green, dropped ones in red; dashed lines are thresholds.</p>",
        '<div class="grid">',
        *(
            f"<figure>{histogram(data)}<figcaption>{_words(name)}</figcaption></figure>"
            for name, data in numbers["histograms"].items()
            if data["edges"]
        ),
        "</div>",
        "<h2>Time</h2>",
        _time(numbers),
        _without(numbers["sources"]["why_without"]),
        "<h2>Quarantine</h2>",
        _quarantine(quarantine),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>{''.join(body)}</html>"
    )


def _facts(numbers: Mapping[str, Any]) -> str:
    kept, sources, speed = numbers["kept"], numbers["sources"], numbers["throughput"]
    facts = {
        "clips kept": f"{kept['clips']:,}",
        "of the time found": f"{numbers['funnel'][-1]['left_percent']:.1f} %",
        "kept": _duration(kept["seconds"]),
        "identities": f"{kept['identities']:,}",
        "sources": f"{sources['found']:,}",
        "unreadable": f"{sources['found'] - sources['readable']:,}",
        "without a clip": f"{sources['without_a_clip']:,}",
        "bytes a frame": f"{kept['bytes_per_frame']:,.0f}",
        "× real time": f"{speed['speed']:.2f}",
    }
    cards = "".join(
        f'<div class="fact"><b>{html.escape(value)}</b>{html.escape(name)}</div>'
        for name, value in facts.items()
    )
    splits = ", ".join(f"{count} {name}" for name, count in kept["splits"].items())
    sizes = ", ".join(f"{count} at {size}²" for size, count in kept["sizes"].items())
    ignored = ", ".join(f"{n} {e}" for e, n in sources["ignored_by_extension"].items())
    notes = [f"Splits: {splits or 'none'}.", f"Image sizes: {sizes or 'none'}."]
    if kept["identities_by_source"]:
        notes.append(
            "Each source counts as one identity, as this detector has no recogniser: a person in "
            "two videos counts as two, and may be on both sides of a split."
        )
    if ignored:
        notes.append(f"Ignored files, by extension: {ignored}.")
    return f'<div class="facts">{cards}</div>' + "".join(
        f"<p>{html.escape(note)}</p>" for note in notes
    )


def _funnel(steps: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        "<tr><th>step</th><th>clips dropped</th><th>seconds dropped</th><th>clips left</th>"
        "<th>seconds left</th><th>left</th><th></th></tr>"
    ]
    for step in steps:
        quiet = "" if step["dropped_clips"] or step["reason"] == "found" else ' class="none"'
        rows.append(
            f"<tr{quiet}><td>{_words(step['reason'])}</td><td>{step['dropped_clips']:,}</td>"
            f"<td>{step['dropped_seconds']:,.1f}</td><td>{step['left_clips']:,}</td>"
            f"<td>{step['left_seconds']:,.1f}</td><td>{step['left_percent']:.1f} %</td>"
            f'<td class="wide">{bar(step["left_percent"], step["dropped_percent"])}</td></tr>'
        )
    return f"<table>{''.join(rows)}</table>"


def _sheet(
    title: str, reason: str, shown: Mapping[str, Sequence[tuple[Mapping[str, Any], bytes]]]
) -> str:
    figures = []
    for row, strip in shown.get(reason, []):
        data = base64.b64encode(strip).decode()
        times = f"{row['start_ms'] / 1000:.2f}-{row['end_ms'] / 1000:.2f} s"
        caption = f"{row['source']} {times}, face {row['face_px']:.0f} px"
        figures.append(
            f'<figure><img alt="" src="data:image/jpeg;base64,{data}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    if not figures:
        return ""
    return f'<h2>{html.escape(title)}</h2><div class="grid">{"".join(figures)}</div>'


def _time(numbers: Mapping[str, Any]) -> str:
    speed = numbers["throughput"]
    total = sum(numbers["stages"].values()) or 1.0
    rows = "".join(
        f"<tr><td>{_words(name)}</td><td>{spent:,.1f} s</td><td>{100 * spent / total:.1f} %</td>"
        f'<td class="wide">{bar(100 * spent / total, 0)}</td></tr>'
        for name, spent in numbers["stages"].items()
    )
    return (
        f"<p>{speed['frames']:,} frames at 25 fps, {speed['detector_runs']:,} detector runs, "
        f"{speed['frames_per_busy_second']:.0f} frames per second and worker. This run processed "
        f"{_duration(speed['processed_s'])} in {_duration(speed['wall_s'])} with "
        f"{speed['workers']} workers.</p><table>{rows}</table>"
    )


def _without(why: Mapping[str, Mapping[str, int]]) -> str:
    if not why:
        return ""
    lines = [
        f"<tr><td>{html.escape(source)}</td><td>{_reasons(reasons)}</td></tr>"
        for source, reasons in list(why.items())[:_MOST_LINES]
    ]
    more = len(why) - len(lines)
    rest = f"<p>and {more:,} more in report.json</p>" if more else ""
    return (
        "<h2>Sources without a clip</h2><table><tr><th>source</th><th>reasons</th>"
        f"</tr>{''.join(lines)}</table>{rest}"
    )


def _reasons(reasons: Mapping[str, int]) -> str:
    return ", ".join(
        f"{n:,} {_words(name)}" if n else _NO_CLIP[name] for name, n in reasons.items()
    )


def _quarantine(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "<p>Empty: every source was read from start to end.</p>"
    lines = [
        "<tr><th>source</th><th>where</th><th>reason</th><th>detail</th></tr>",
        *(
            f"<tr><td>{html.escape(str(row['source']))}</td><td>{_where(row)}</td>"
            f"<td>{html.escape(_words(row['reason']))}</td>"
            f"<td>{html.escape(str(row['detail']))}</td></tr>"
            for row in rows[:_MOST_LINES]
        ),
    ]
    more = len(rows) - _MOST_LINES
    rest = f"<p>and {more:,} more in quarantine.parquet</p>" if more > 0 else ""
    return f"<table>{''.join(lines)}</table>{rest}"


def _where(row: Mapping[str, Any]) -> str:
    if row["start_s"] is None:
        return "whole source"
    return f"{row['start_s']:.2f}-{row['end_s']:.2f} s"


def _words(name: str) -> str:
    return html.escape(name.replace("_", " "))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"
