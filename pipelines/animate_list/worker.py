"""The part of the job that runs on Ray: actors that hold the model and animate pair by pair."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.animate.job import AnimateOptions, animate, load_animator
from pipelines.animate_list.plan import Pair, PairRecord, keep_record
from preprocessing.errors import UserError, first_line
from xnemo.animation.animator import Animator


def stream_records(
    todo: Sequence[Pair], model: str, options: AnimateOptions, out: Path, actors: int, gpu: bool
) -> Iterator[PairRecord]:
    """Animate pairs with so many actors at once; yield the record of each when it is written."""
    import ray.data

    items = [{"pair": json.dumps(asdict(pair))} for pair in todo]
    results = ray.data.from_items(items, override_num_blocks=len(items)).map(
        PairAnimator,  # type: ignore[arg-type]  # Ray makes an actor of a class
        fn_constructor_args=(model, options, str(out)),
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(items))),
        num_cpus=1,
        num_gpus=1 if gpu else 0,
    )
    # Prefetching would hold every record back until the next one is there.
    tables: Iterable[Any] = results.iter_batches(
        batch_size=None, prefetch_batches=0, batch_format="pyarrow"
    )
    for table in tables:
        for record in table["record"].to_pylist():
            yield PairRecord(**json.loads(record))


class PairAnimator:
    """Animates pairs with one loaded model; a pair that fails is a record, not an error."""

    def __init__(self, model: str, options: AnimateOptions, out: str) -> None:
        self._model = model
        self._options = options
        self._out = Path(out)
        self._animator: Animator | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Animate the pair of a row of the data set."""
        pair = Pair(**json.loads(row["pair"]))
        return {"record": json.dumps(asdict(self.animate(pair)))}

    def animate(self, pair: Pair) -> PairRecord:
        """Write a pair's video, then its record."""
        try:
            # Not at construction, where Ray would hide the reason.
            self._animator = self._animator or load_animator(self._model, self._options)
        except UserError as error:
            return PairRecord(pair.portrait, pair.driving, "refused", str(error))
        output = self._out / f"{pair.name}.mp4"
        try:
            made = animate(self._animator, pair.portrait, pair.driving, output, self._options)
        except Exception as error:  # of thousands of files, one may break anything
            known = isinstance(error, UserError)
            reason = str(error) if known else f"{type(error).__name__}: {first_line(error)}"
            record = PairRecord(pair.portrait, pair.driving, "failed", reason)
        else:
            record = PairRecord(
                pair.portrait,
                pair.driving,
                "done",
                output=output.name,
                frames=made.frames,
                fps=made.fps,
                portrait_face=made.portrait,
                driving_face=made.face,
                audio=made.audio,
                seconds=made.seconds,
            )
        keep_record(pair, record, self._out)
        return record
