"""Writes report.json and report.html beside the data set."""

import json

from preprocessing.chunk.output import read_output_member
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.finalize import Dataset
from preprocessing.report.numbers import RunFacts, clips_to_show, report_numbers
from preprocessing.report.page import report_page
from preprocessing.storage.store import Store

REPORT_PAGE, REPORT_NUMBERS = "report.html", "report.json"


def write_report(store: Store, dataset: Dataset, config: PreprocessConfig, run: RunFacts) -> None:
    """Publish the report of a finished data set.

    Args:
        store: where the data set and its chunk outputs are.
        dataset: the data set.
        config: settings.
        run: facts of the run.
    """
    rows, quarantine = dataset.rows, dataset.quarantine
    numbers = report_numbers(rows, quarantine, dataset.chunks, config, run)
    shown = {
        reason: [
            (row, read_output_member(store, {**row, **row["in_output"]}, "jpg")) for row in group
        ]
        for reason, group in clips_to_show(rows).items()
    }
    store.write_atomic(REPORT_NUMBERS, json.dumps(numbers, indent=1).encode())
    title = f"Talking-head data set {store.url.rstrip('/').rsplit('/', 1)[-1]}"
    store.write_atomic(REPORT_PAGE, report_page(title, numbers, shown, quarantine).encode())
