"""Checks of the decoders and the encoder on a real clip."""

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipelines.doctor.check import Check, State

# Run in a child process: a native decoder may crash.
_PROBES = {
    "pyav": "import av; print(sum(1 for _ in av.open(clip).decode(video=0)))",
    "decord": "import decord; print(decord.VideoReader(clip).get_batch(range(8)).shape[0])",
    "torchcodec": "from torchcodec.decoders import VideoDecoder; print(len(VideoDecoder(clip)[:]))",
}
_FRAMES = 8
_TIME_LIMIT_S = 120.0

_REMEDIES = {
    "pyav": "pip install --force-reinstall av==18.1.0",
    "decord": "pip install --force-reinstall --no-deps decord==0.6.0",
    "torchcodec": "apt-get install ffmpeg; pip install torchcodec==0.13.0",
}


def check_opencv() -> Check:
    """Import OpenCV, whose default build requires desktop libraries that servers lack."""
    name = "OpenCV"
    try:
        return Check(name, "ok", str(importlib.import_module("cv2").__version__))
    except ImportError as error:
        remedy = (
            "pip uninstall --yes opencv-python; "
            "pip install --force-reinstall --no-deps opencv-python-headless"
        )
        return Check(name, "missing", str(error), remedy)


def check_decoders() -> Iterator[Check]:
    """Encode a short clip and decode it with every backend."""
    opencv = check_opencv()
    yield opencv
    if opencv.state == "missing":
        # The encoder requires it.
        return
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "probe.mp4"
        try:
            clip.write_bytes(_encode())
        except Exception as error:
            yield Check("encoder H.264", "missing", str(error), _REMEDIES["pyav"])
            return
        yield Check("encoder H.264", "ok", "libx264 inside PyAV; no ffmpeg program is needed")
        for backend, package in (("pyav", "av"), ("decord", "decord"), ("torchcodec",) * 2):
            yield _decoder(backend, package, clip)


def _encode() -> bytes:
    import numpy as np

    from preprocessing.encode.clip_encoder import encode_clip

    ramp = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    return encode_clip(np.roll(ramp, number, axis=0) for number in range(_FRAMES))


def _decoder(backend: str, package: str, clip: Path) -> Check:
    name = f"decoder {backend}"
    # Only PyAV is required.
    failed: State = "missing" if backend == "pyav" else "warn"
    try:
        found = f"{package} {version(package)}"
    except PackageNotFoundError:
        return Check(name, failed, "not installed", _REMEDIES[backend])
    try:
        run = subprocess.run(
            [sys.executable, "-c", f"clip = {str(clip)!r}; {_PROBES[backend]}"],
            capture_output=True,
            text=True,
            timeout=_TIME_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return Check(name, failed, f"{found} hangs", _REMEDIES[backend])
    if run.returncode == 0 and run.stdout.split()[-1:] == [str(_FRAMES)]:
        return Check(name, "ok", found)
    if run.returncode < 0:
        why = f"crashes (signal {-run.returncode})"
    else:
        lines = run.stderr.strip().splitlines() or [f"decoded {run.stdout.strip()} of {_FRAMES}"]
        why = lines[-1]
    return Check(name, failed, f"{found} fails: {why}", _REMEDIES[backend])
