"""Measures the preprocessing job against a plain script and against its own bars.

    python benchmarks/bench_preprocessing.py [--smoke] [--assets FOLDER] [--only ROW ...]

B0 is `plain_preprocessing`: decord, the same detector on every frame, crop, JPEG. B1 is our own
chunk task in a plain loop, without Ray. Ratios are of runs side by side, clip by clip, in this
process. What is said per core is counted in CPU seconds of all threads, so a neighbour on the
machine does it little harm; `workers`, `skew` and `planned` are wall times and want the machine to
themselves. With --only the other rows of the results stay as they were, each with its own date.
Real clips are found where XNEMO_ASSETS or --assets says; without them synthetic ones stand in, and
the note says so.
"""

import argparse
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from long_videos import base_video
from preprocessing_jobs import (
    many_planned_sources,
    one_long_among_short,
    two_workers,
    worker_memory,
)
from preprocessing_pixels import (
    against_plain_script,
    bytes_and_fidelity,
    passes_over_pixels,
    tubes_against_dense_detection,
)
from preprocessing_setting import Setting
from reporting import Report

ROOT = Path(__file__).resolve().parents[1]
ROWS: dict[str, Callable[[Report, Setting], None]] = {
    "plain": against_plain_script,
    "tubes": tubes_against_dense_detection,
    "bytes": bytes_and_fidelity,
    "passes": passes_over_pixels,
    "workers": two_workers,
    "memory": worker_memory,
    "skew": one_long_among_short,
    "planned": many_planned_sources,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny inputs, nothing written")
    parser.add_argument("--assets", type=Path, help="folder of real clips")
    parser.add_argument("--only", nargs="*", choices=ROWS, help="some of the rows")
    options = parser.parse_args()
    report = Report("preprocessing", settings={"detector": "centerface", "detector_side": 640})
    with tempfile.TemporaryDirectory() as folder:
        setting = _setting(Path(folder), options.assets, options.smoke)
        for name in options.only or ROWS:
            report.part = name
            try:
                ROWS[name](report, setting)
            except Exception as error:
                traceback.print_exc()
                report.add(name, None, "", note=f"failed: {type(error).__name__}: {error}"[:90])
    return report.finish(smoke=options.smoke, parts=tuple(ROWS))


def _setting(folder: Path, assets: Path | None, smoke: bool) -> Setting:
    assets = assets or Path(
        os.environ.get("XNEMO_ASSETS", ROOT.parent / "shared" / "assets" / "videos")
    )
    if assets.is_dir():
        clips = sorted(path for path in assets.iterdir() if path.is_file())
        return Setting(folder, clips[6:7] if smoke else clips[::7], smoke, "real clips")
    sizes = [(512, 512), (1280, 720)] if smoke else [(512, 512), (1280, 720), (640, 480)] * 2
    clips = [
        base_video(folder / f"clip{n}.mp4", 4 if smoke else 10, width, height, seed=n)
        for n, (width, height) in enumerate(sizes)
    ]
    return Setting(folder, clips, smoke, "synthetic clips")


if __name__ == "__main__":
    raise SystemExit(main())
