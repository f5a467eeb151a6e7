from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from preprocessing.chunk.records import ChunkEnd
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.gather import ChunkSummary
from preprocessing.report.numbers import RunFacts, clips_to_show, funnel, report_numbers
from preprocessing.report.page import report_page
from preprocessing.storage.index import SCORES

CONFIG = PreprocessConfig()


def row(number, reason="", seconds=4.0):
    scores = dict.fromkeys(SCORES, 0.5) | {"face_px": 100.0 + number, "overlay": None}
    return {
        "key": f"k{number}", "status": "dropped" if reason else "kept", "reason": reason,
        "source": f"<s>&{number % 3}.mp4", "start_ms": 0, "end_ms": 4000, "duration_s": seconds,
        "frames": 100, "identity": "p", "split": "train", "size": 256, "jpg_length": 3,
        "mp4_length": 1000, "npz_length": 10, **scores,
    }  # fmt: skip


ROWS = [
    *(row(n) for n in range(60)), row(60, "blurred"), row(61, "blurred", 6.0),
    row(62, "too_short", 0.5), row(63, "duplicate"),
]  # fmt: skip
END = ChunkEnd((), 6000, 800, (), {"decode": 2.0, "encode": 4.0})
CHUNKS = [ChunkSummary("<s>&0.mp4", 250.0, END)]
RUN = RunFacts(4, 3, {".txt": 2}, seconds=10.0, processed_s=250.0, workers=2)
BAD = [
    {"source": "<b>.mp4", "reason": "not_video", "detail": "x & y", "start_s": None, "end_s": None},
    {"source": "c.mp4", "reason": "truncated", "detail": "ends", "start_s": 3.0, "end_s": 4.5},
]


def test_the_funnel_adds_up():
    steps = funnel(ROWS)
    assert steps[0]["left_clips"] == 64
    assert steps[-1]["left_clips"] == 60
    assert sum(step["dropped_clips"] for step in steps) == 4
    for before, after in pairwise(steps):
        assert before["left_clips"] - after["dropped_clips"] == after["left_clips"]
        assert before["left_seconds"] - after["dropped_seconds"] == pytest.approx(
            after["left_seconds"]
        )
    by_reason = {step["reason"]: step for step in steps}
    assert by_reason["blurred"]["dropped_seconds"] == 10.0


@pytest.mark.parametrize("identity", ["person_1", "source_1"])
def test_it_is_told_where_identities_are_only_sources(identity):
    rows = [{**row(n), "identity": identity} for n in range(3)]
    numbers = report_numbers(rows, BAD, CHUNKS, CONFIG, RUN)
    page = report_page("faces", numbers, {"kept": []}, BAD)
    assert ("has no recogniser" in page) == identity.startswith("source")


def test_a_reason_nobody_gives_is_a_defect():
    with pytest.raises(ValueError, match="ugly"):
        funnel([row(0, "ugly")])


def test_the_choice_of_clips_is_bounded_fair_and_stable():
    shown = clips_to_show(ROWS)
    assert list(shown) == ["kept", "too_short", "blurred", "duplicate"]
    assert len(shown["kept"]) == 48
    assert shown == clips_to_show(ROWS[::-1])
    assert len({r["source"] for r in shown["kept"]}) == 3


def test_numbers():
    numbers = report_numbers(ROWS, BAD, CHUNKS, CONFIG, RUN)
    assert numbers["kept"]["clips"] == 60
    assert numbers["kept"]["bytes_per_frame"] == 10
    assert numbers["quarantine"] == {"not_video": 1, "truncated": 1}
    assert numbers["throughput"]["speed"] == 25
    assert numbers["throughput"]["frames_per_busy_second"] == 1000
    assert list(numbers["stages"]) == ["encode", "decode"]
    histogram = numbers["histograms"]["face_px"]
    assert sum(histogram["kept"]) == 60
    assert sum(histogram["dropped"]) == 4
    assert histogram["thresholds"] == {"min_face_px": CONFIG.filters.min_face_px}
    assert numbers["histograms"]["overlay"]["edges"] == []


def test_a_source_without_a_clip_says_why():
    dropped = [
        {**row(n, reason), "source": "<d>.mp4"} for n, reason in ((70, "still"), (71, "flat"))
    ]
    none = replace(END, frames=0)
    chunks = CHUNKS + [
        ChunkSummary(source, 250.0, end)
        for source, end in (
            ("<d>.mp4", END), ("<n>.mp4", END), ("slides.mp4", none), ("c.mp4", none)
        )
    ]  # fmt: skip
    numbers = report_numbers([*ROWS, *dropped], BAD, chunks, CONFIG, replace(RUN, readable=7))
    assert numbers["sources"]["without_a_clip"] == 4
    assert numbers["sources"]["why_without"] == {
        "<d>.mp4": {"still": 1, "flat": 1}, "<n>.mp4": {"no_face": 0},
        "c.mp4": {"damaged": 0}, "slides.mp4": {"no_motion": 0},
    }  # fmt: skip
    page = report_page("Data", numbers, {}, [])
    assert "<td>&lt;d&gt;.mp4</td><td>1 still, 1 flat</td>" in page
    assert "<td>&lt;n&gt;.mp4</td><td>no face was found</td>" in page
    assert "<td>slides.mp4</td><td>no two frames are within" in page
    assert "Sources without a clip" not in report_page(
        "Data", report_numbers(ROWS, [], CHUNKS, CONFIG, RUN), {}, []
    )


def test_the_page_is_well_formed_escaped_and_needs_nothing_else():
    numbers = report_numbers(ROWS, BAD, CHUNKS, CONFIG, RUN)
    shown = {k: [(r, b"jpg") for r in v] for k, v in clips_to_show(ROWS).items()}
    page = report_page("Data <set>", numbers, shown, BAD)
    open_tags = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            for name, value in attrs:
                assert not (name in {"src", "href"} and not value.startswith("data:"))
            if tag not in {"meta", "img"}:
                open_tags.append(tag)

        def handle_startendtag(self, tag, attrs):
            assert tag in {"rect", "line"}

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Checker().feed(page)
    assert open_tags == []
    assert "<s>" not in page
    assert "&lt;s&gt;&amp;0.mp4" in page
    assert "Data &lt;set&gt;" in page
    assert "Dropped: blurred" in page
    assert page.count("data:image/jpeg") == 48 + 4


def test_an_empty_job_has_a_report_too():
    numbers = report_numbers([], [], [], CONFIG, replace(RUN, seconds=0.0, processed_s=0.0))
    assert numbers["kept"]["clips"] == 0
    assert "<h2>Funnel</h2>" in report_page("empty", numbers, {}, [])
