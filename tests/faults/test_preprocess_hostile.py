"""The broken and odd videos through the whole job: nothing stops it, nothing healthy is lost."""

import os

import pandas as pd
import pytest
from job_process import run_job

from preprocessing.config import PreprocessConfig
from preprocessing.storage.index import read_index

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# Fewest frames of a clip, at 25 a second.
LEAST_S = PreprocessConfig().tube.min_frames / 25


@pytest.fixture(scope="module")
def outcome(hostile_corpus_entries, tmp_path_factory):
    """What the job says, its index and its quarantine table."""
    out = tmp_path_factory.mktemp("hostile-out")
    folder = hostile_corpus_entries[0].path.parent
    result = run_job(folder, out, "decode.stall_limit_s=20", strict=True)
    return result, read_index(out), pd.read_parquet(out / "quarantine.parquet")


def test_the_job_goes_through_and_strict_tells(outcome):
    result, index, quarantine = outcome
    assert result["exit_code"] == 1
    assert result["quarantined"] == len(quarantine)
    assert (index["status"] == "kept").sum() == result["kept"]


def test_every_source_ends_where_it_belongs(outcome, hostile_corpus_entries):
    _, index, quarantine = outcome
    wrong = []
    for entry in hostile_corpus_entries:
        # A name on disk need not be text; tables hold it with such bytes spelt out.
        name = os.fsencode(entry.path.name).decode("utf-8", "backslashreplace")
        clips = index[(index["source"] == name) & (index["status"] == "kept")]
        kept_s = clips["duration_s"].sum()
        # Less than the shortest clip is no clip.
        clean_s = sum(end - start for start, end in entry.clean if end - start >= LEAST_S)
        rows = quarantine[quarantine["source"] == name]
        told = f"{entry.kind}: kept {kept_s:.1f} of {clean_s:.1f} s, {list(rows['reason'])}"
        if entry.outcome == "healthy":
            right = kept_s >= 0.8 * clean_s and len(rows) == 0
        elif entry.outcome == "partly":
            right = kept_s >= 0.8 * clean_s and len(rows) > 0
        elif entry.outcome == "quarantined":
            right = len(clips) == 0 and len(rows) > 0 and set(rows["reason"]) <= entry.reasons
        else:
            right = len(clips) == 0 and len(rows) == 0
        if not right:
            wrong.append(f"{entry.outcome}, {told}, expected {sorted(entry.reasons)}")
    assert not wrong, "\n".join(wrong)


def test_quarantine_says_why_in_words(outcome):
    _, _, quarantine = outcome
    assert quarantine["detail"].str.len().min() > 5
    assert not quarantine["detail"].str.contains("\n").any()
    assert not (quarantine["reason"] == "error").any()
