"""Writes report.json and report.html beside the data set."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from preprocessing.chunk.output import read_part_member
from preprocessing.config import PreprocessConfig
from preprocessing.report.numbers import clips_to_show, report_numbers
from preprocessing.report.page import report_page
from preprocessing.storage.store import Store

REPORT_PAGE, REPORT_NUMBERS = "report.html", "report.json"


def write_report(
    store: Store,
    rows: Sequence[Mapping[str, Any]],
    quarantine: Sequence[Mapping[str, Any]],
    ends: Sequence[Mapping[str, Any]],
    config: PreprocessConfig,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Publish the report and return its numbers; arguments as `report.report_numbers`."""
    numbers = report_numbers(rows, quarantine, ends, config, facts)
    shown = {
        reason: [(row, read_part_member(store, {**row, **row["in_part"]}, "jpg")) for row in group]
        for reason, group in clips_to_show(rows).items()
    }
    store.write_atomic(REPORT_NUMBERS, json.dumps(numbers, indent=1).encode())
    title = f"Talking-head data set {store.url.rstrip('/').rsplit('/', 1)[-1]}"
    store.write_atomic(REPORT_PAGE, report_page(title, numbers, shown, quarantine).encode())
    return numbers
