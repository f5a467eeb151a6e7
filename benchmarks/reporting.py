"""The table and the JSON file that every benchmark ends with.

A benchmark is a script; it imports this file as a neighbour:

    from reporting import Report

    report = Report("network", settings={"frames": 64})
    report.add("ours / plain copy", 2.1, "x", bar=1.5)
    report.add("peak memory", 512, "MiB", bar=800, lower_is_better=True)
    report.add("time per step", 0.31, "s")           # a figure without a bar
    raise SystemExit(report.finish())
"""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "diffusers", "numpy", "av", "decord", "torchcodec", "ray", "deepspeed")


@dataclass(frozen=True)
class Row:
    """One measured figure, with the bar it is held against, if any."""

    # What was measured.
    name: str
    # The figure, or None where it could not be measured (the note says why).
    value: float | None
    # Its unit; "x" for a ratio.
    unit: str
    # What it must reach.
    bar: float | None
    # Whether small is good, as with memory.
    lower_is_better: bool
    # Circumstances worth a word.
    note: str
    # Part of the benchmark that measured it; a part can be run again alone.
    part: str = ""
    # When it was measured; empty for the date of the whole report.
    date: str = ""

    @property
    def short(self) -> bool:
        """Whether the bar is missed."""
        if self.bar is None or self.value is None:
            return False
        return self.value > self.bar if self.lower_is_better else self.value < self.bar


@dataclass
class Report:
    """Collects rows, prints them, writes them down."""

    # Name of the benchmark and of its JSON file.
    name: str
    # What was run: sizes, frames, repeats.
    settings: dict[str, Any] = field(default_factory=dict)
    # Filled by `add`.
    rows: list[Row] = field(default_factory=list)
    # The part that the rows to come belong to.
    part: str = ""

    def add(
        self,
        name: str,
        value: float | None,
        unit: str,
        bar: float | None = None,
        lower_is_better: bool = False,
        note: str = "",
    ) -> None:
        """Add one figure."""
        date = datetime.now(UTC).isoformat(timespec="seconds") if self.part else ""
        self.rows.append(Row(name, value, unit, bar, lower_is_better, note, self.part, date))

    def finish(self, smoke: bool = False, parts: Sequence[str] = ()) -> int:
        """Print the table and write `results/{name}.json`; return the number of missed bars.

        Args:
            smoke: The run only proved that the benchmark works: print, write nothing.
            parts: All parts of the benchmark, in order. Rows of those that were not run now are
                taken over from the file, each with the date of its own run.
        """
        print(self.table())
        if not smoke:
            self.write(parts)
            print(f"written to {self._target}")
        return sum(row.short for row in self.rows)

    def write(self, parts: Sequence[str] = ()) -> None:
        """Write the file as `finish` does, for instance after each part of a long run."""
        RESULTS.mkdir(exist_ok=True)
        content = self.as_dict(self._with_older(parts))
        self._target.write_text(json.dumps(content, indent=2) + "\n")

    @property
    def _target(self) -> Path:
        return RESULTS / f"{self.name}.json"

    def _with_older(self, parts: Sequence[str]) -> list[Row]:
        """Return the rows, and in their parts' order those of parts not run now."""
        if not parts or not self._target.exists():
            return self.rows
        known = {row.part for row in self.rows}
        older = [
            Row(**{k: v for k, v in row.items() if k != "short"})
            for row in json.loads(self._target.read_text())["rows"]
            if row.get("part") in set(parts) - known
        ]
        return sorted([*self.rows, *older], key=lambda row: parts.index(row.part))

    def table(self) -> str:
        """Return the rows as text, SHORT beside each bar that is missed."""
        head = ("", "measured", "bar", "", "")
        lines = [head]
        for row in self.rows:
            sign = "<=" if row.lower_is_better else ">="
            lines.append(
                (
                    row.name,
                    "-" if row.value is None else f"{_figure(row.value)} {row.unit}",
                    "" if row.bar is None else f"{sign} {_figure(row.bar)}",
                    "SHORT" if row.short else "",
                    row.note,
                )
            )
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def as_dict(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return all that the JSON file holds."""
        return {
            "benchmark": self.name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "hardware": hardware(),
            "packages": _versions(),
            "settings": self.settings,
            "rows": [asdict(row) | {"short": row.short} for row in rows],
        }


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory and GPUs of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "gpus": _gpus(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((ln.split(":", 1)[1].strip() for ln in lines if "model name" in ln), "unknown")


def _gpus() -> list[str]:
    try:
        import torch
    except ImportError:
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _figure(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
