"""What stands behind the page: files handed in, and animations made of them one after another."""

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

#: Settings of the page and the options they stand for.
SETTINGS = {
    "steps": "animate.sampler.steps",
    "guidance": "animate.sampler.guidance",
    "seed": "animate.seed",
    "max_frames": "max_frames",
}

# A piece of a file on its way from the browser to the disk, in bytes.
_PIECE = 2**20


class _Cancelled(Exception):  # noqa: N818 - nothing went wrong
    """Somebody asked for the end of an animation."""


@dataclass
class Job:
    """One animation, waiting, being made or over."""

    # What it is made of and how.
    portrait: Path
    driver: Path
    options: AnimateOptions
    # How it is.
    state: Literal["waiting", "running", "done", "failed", "cancelled"] = "waiting"
    # How far it is: the stage's name, units done, and units in all (0 while unknown).
    stage: str = ""
    done: int = 0
    total: int = 0
    # Why it failed.
    error: str = ""
    # What was made.
    result: AnimateResult | None = None
    # Whether somebody wants it to end.
    unwanted: bool = False

    def view(self) -> dict[str, Any]:
        """The job as plain data, for the page."""
        view = {name: getattr(self, name) for name in ("state", "stage", "done", "total", "error")}
        if self.result is not None:
            made = self.result
            view |= {"frames": made.frames, "fps": made.fps, "seconds": made.seconds}
            view |= {"sound": made.sound, "path": str(made.output)}
        return view


class Studio:
    """Takes files and makes animations of them, one at a time, in a thread of its own.

    Args:
        animator: the model.
        options: of every animation; the page may change those of `SETTINGS`.
        out: folder of the results; made when the first is written.
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
        """Keep a file that was handed in, whole or not at all, and return its token.

        Raises:
            UserError: it ends early.
            OSError: it cannot be written.
        """
        token = uuid.uuid4().hex
        folder = self._folder / token
        folder.mkdir()
        # Its own name serves in messages, as far as it is harmless.
        path = folder / (re.sub(r"[^\w.-]+", "_", Path(name).name)[-80:].lstrip(".") or "file")
        try:
            with path.open("wb") as file:
                left = length
                while left:
                    piece = content.read(min(left, _PIECE))
                    if not piece:
                        raise UserError(f"{name} ended {left} bytes early", "hand it in again")
                    file.write(piece)
                    left -= len(piece)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._files[token] = path
        return token

    def start(self, portrait: str, driver: str, settings: Mapping[str, Any]) -> str:
        """Put an animation into the queue and return its token.

        Raises:
            UserError: a file or a setting is unknown, or a value does not suit.
        """
        for token in (portrait, driver):
            if token not in self._files:
                raise UserError("a file is missing", "hand in a portrait and a driving video")
        unknown = settings.keys() - SETTINGS.keys()
        if unknown:
            raise UserError(f"there is no setting {min(unknown)!r}", f"use {', '.join(SETTINGS)}")
        changed = {SETTINGS[name]: value for name, value in settings.items()}
        job = Job(self._files[portrait], self._files[driver], override(self._options, changed))
        token = uuid.uuid4().hex
        self._jobs[token] = job
        self._queue.put(job)
        return token

    def job(self, token: str) -> Job | None:
        """Return a job, or None where there is none of that token."""
        return self._jobs.get(token)

    def close(self) -> None:
        """End the animation in work and forget all files that were handed in."""
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
            target = self._free_name(f"{job.portrait.stem}_by_{job.driver.stem}")
            job.result = animate(
                self._animator, job.portrait, job.driver, target, job.options, on_progress
            )
            job.state = "done"
        except _Cancelled:
            job.state = "cancelled"
        except (UserError, OSError) as error:
            inside = re.escape(f"{self._folder}{os.sep}") + rf"\w+{re.escape(os.sep)}"
            job.error = re.sub(inside, "", str(error))
            job.state = "failed"
        except Exception as error:
            # The page goes on whatever became of one animation; a defect is told in the terminal.
            traceback.print_exc()
            job.error = f"a defect of xnemo, told in its terminal: {error!r}"
            job.state = "failed"

    def _free_name(self, stem: str) -> Path:
        number = 1
        while (path := self._out / f"{stem}_{number}.mp4").exists():
            number += 1
        return path
