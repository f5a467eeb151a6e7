"""Uploads and animations of the page, one animation at a time."""

import os
import re
import shutil
import tempfile
import threading
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from pipelines.animate.job import AnimateOptions, AnimateResult, animate
from preprocessing.errors import UserError
from xnemo.animation.animator import Animator
from xnemo.config import override

#: Settings of the page, and the options they change.
SETTINGS = {
    "steps": "steps",
    "guidance": "guidance",
    "seed": "seed",
    "max_frames": "max_frames",
}

# Bytes of an upload written at once.
_PIECE = 2**20


class _Cancelled(Exception):  # noqa: N818 - not an error
    """The animation was cancelled."""


@dataclass
class Job:
    """One animation: waiting, running or finished."""

    # Inputs and settings.
    portrait: Path
    driving: Path
    options: AnimateOptions
    state: Literal["waiting", "running", "done", "failed", "cancelled"] = "waiting"
    # Progress: stage, units done, and units in all (0: not known yet).
    stage: str = ""
    done: int = 0
    total: int = 0
    # Reason of a failure.
    error: str = ""
    # What was written.
    result: AnimateResult | None = None
    # Whether it was cancelled.
    unwanted: bool = False

    def view(self) -> dict[str, Any]:
        """Return the job as plain data, for the page."""
        view = {name: getattr(self, name) for name in ("state", "stage", "done", "total", "error")}
        if self.result is not None:
            made = self.result
            view |= {"frames": made.frames, "fps": made.fps, "seconds": made.seconds}
            view |= {"audio": made.audio, "path": str(made.output)}
        return view


class Studio:
    """Stores uploads and animates them, one at a time, in a thread.

    Args:
        animator: The model.
        options: Settings of every animation; the page may change those of `SETTINGS`.
        out: Folder of the results; created with the first.
    """

    def __init__(self, animator: Animator, options: AnimateOptions, out: Path) -> None:
        self._animator = animator
        self._options = options
        self._out = out
        self._folder = Path(tempfile.mkdtemp(prefix="xnemo-ui-"))
        self._files: dict[str, Path] = {}
        self._jobs: dict[str, Job] = {}
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="animations", daemon=True)
        self._worker.start()

    def take_file(self, name: str, content: BufferedIOBase, length: int) -> str:
        """Store an upload and return its token; nothing is kept of an incomplete one.

        Raises:
            UserError: The upload ends early.
            OSError: It cannot be written.
        """
        token = uuid.uuid4().hex
        folder = self._folder / token
        folder.mkdir()
        # The original name appears in messages, with unsafe characters replaced.
        path = folder / (re.sub(r"[^\w.-]+", "_", Path(name).name)[-80:].lstrip(".") or "file")
        try:
            with path.open("wb") as file:
                left = length
                while left:
                    piece = content.read(min(left, _PIECE))
                    if not piece:
                        raise UserError(f"{name} ended {left} bytes early", "upload it again")
                    file.write(piece)
                    left -= len(piece)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._files[token] = path
        return token

    def start(self, portrait: str, driving: str, settings: Mapping[str, Any]) -> str:
        """Queue an animation and return its token.

        Raises:
            UserError: A file or setting is unknown, or a value is invalid.
        """
        for token in (portrait, driving):
            if token not in self._files:
                raise UserError("a file is missing", "upload a portrait and a driving video")
        unknown = settings.keys() - SETTINGS.keys()
        if unknown:
            raise UserError(f"there is no setting {min(unknown)!r}", f"use {', '.join(SETTINGS)}")
        changed = {SETTINGS[name]: value for name, value in settings.items()}
        job = Job(self._files[portrait], self._files[driving], override(self._options, changed))
        token = uuid.uuid4().hex
        self._jobs[token] = job
        self._queue.put(job)
        return token

    def job(self, token: str) -> Job | None:
        """Return a job, or None for an unknown token."""
        return self._jobs.get(token)

    def close(self) -> None:
        """Cancel all animations and delete all uploads."""
        for job in self._jobs.values():
            job.unwanted = True
        self._queue.put(None)
        self._worker.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if job.unwanted:
                job.state = "cancelled"
                continue
            job.state = "running"
            self._make(job)

    def _make(self, job: Job) -> None:
        def on_progress(stage: str, done: int, total: int) -> None:
            if job.unwanted:
                raise _Cancelled
            job.stage, job.done, job.total = stage, done, total

        try:
            target = self._free_name(f"{job.portrait.stem}_by_{job.driving.stem}")
            job.result = animate(
                self._animator, job.portrait, job.driving, target, job.options, on_progress
            )
            job.state = "done"
        except _Cancelled:
            job.state = "cancelled"
        except (UserError, OSError) as error:
            inside = re.escape(f"{self._folder}{os.sep}") + rf"\w+{re.escape(os.sep)}"
            job.error = re.sub(inside, "", str(error))
            job.state = "failed"
        except Exception as error:
            # One failure must not stop the page; the terminal shows the traceback.
            traceback.print_exc()
            job.error = f"internal error, see the terminal: {error!r}"
            job.state = "failed"

    def _free_name(self, stem: str) -> Path:
        number = 1
        while (path := self._out / f"{stem}_{number}.mp4").exists():
            number += 1
        return path
