"""Runs the preprocessing job in a process of its own, so that it can be killed or starved."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

JOB = """
import json, sys
from pipelines.preprocess.job import preprocess
from preprocessing.config import PreprocessConfig
from preprocessing.errors import UserError
from xnemo.config import override

arguments = json.loads(sys.argv[1])
settings = override(PreprocessConfig(), arguments["settings"])
def tell(progress):
    print("progress", progress.stage, progress.done, flush=True)
try:
    result = preprocess(arguments["videos"], arguments["out"], settings,
                        concurrency=arguments["concurrency"], strict=arguments["strict"],
                        on_progress=tell)
    print(json.dumps({"kept": result.kept, "processed": result.processed,
                      "quarantined": result.quarantined, "exit_code": result.exit_code}))
except UserError as error:
    print(json.dumps({"error": str(error)}))
"""

#: Small and fast: pictures of 256 pixels, detection at 256.
SETTINGS = ("tube.size=256", "detect.size=256", "shard.validation=0", "shard.test=0")


def start_job(
    videos: object,
    out: object,
    *settings: str,
    concurrency: int = 2,
    strict: bool = False,
    environment: dict[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start the job; its output has a line for each step, and JSON at the end."""
    arguments = {
        "videos": str(videos), "out": str(out), "settings": [*SETTINGS, *settings],
        "concurrency": concurrency, "strict": strict,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", JOB, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment or dict(os.environ),
        start_new_session=True,
    )


def run_job(*args: object, **kwargs: Any) -> dict[str, Any]:
    """Run the job to its end and return what it printed last."""
    process = start_job(*args, **kwargs)  # type: ignore[arg-type]
    output, errors = process.communicate()
    assert process.returncode == 0, f"{output[-2000:]}\n{errors[-4000:]}"
    content: dict[str, Any] = json.loads(output.splitlines()[-1])
    return content


def published(out: Path) -> dict[str, bytes]:
    """Return all bytes a reader sees, but for the report, which tells of time."""
    files = [*sorted(out.glob("shards/*")), out / "index.parquet", out / "quarantine.parquet"]
    return {file.name: file.read_bytes() for file in files}
