"""Animate a list of pairs on Ray Data; the same command again resumes."""

import io
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.animate.job import AnimateOptions, check_folder, write_file
from pipelines.animate_list.plan import RESULTS_NAME, PairRecord, finished, read_pairs
from pipelines.animate_list.worker import stream_records
from pipelines.cluster.connect import connect, silence_ray_data
from preprocessing.errors import UserError


@dataclass(frozen=True)
class ListResult:
    """What a list came to."""

    # Table with a row for each pair.
    table: Path
    # Rows in the order of the list.
    records: list[PairRecord]
    # Pairs animated by this run, and its wall time in seconds.
    made: int
    seconds: float

    @property
    def failed(self) -> list[PairRecord]:
        """Pairs without a video."""
        return [record for record in self.records if record.status != "done"]


def animate_list(
    model: str | Path,
    file: str | Path,
    out: str | Path,
    options: AnimateOptions | None = None,
    *,
    address: str | None = None,
    concurrency: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ListResult:
    """Write a video for each pair of a list, and `results.parquet` with a row for each.

    A pair that cannot be animated is a row with its reason. Pairs that were done with the same
    model, settings and files are not animated again.

    Args:
        model: As for `animate`.
        file: Table with columns `portrait` and `driving`.
        out: Folder of the videos; on a cluster one that all nodes share.
        options: Settings of all pairs.
        address: Ray cluster; None for this machine.
        concurrency: Pairs at once; None for one per GPU, or per CPU where there is no GPU.
        on_progress: Receives pairs done and in all.

    Raises:
        UserError: The list, the folder or the model is unusable.
    """
    began = time.monotonic()
    options = options or AnimateOptions()
    # Workers of a cluster have another working directory.
    model = str(Path(model).absolute()) if Path(model).exists() else str(model)
    out = Path(out).absolute()
    pairs = read_pairs(Path(file), model, options)
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    records = {pair.name: record for pair in pairs if (record := finished(pair, out))}
    todo = [pair for pair in pairs if pair.name not in records]
    names = {(pair.portrait, pair.driving): pair.name for pair in todo}
    notify = on_progress or (lambda done, total: None)
    notify(len(records), len(pairs))
    if todo:
        with ExitStack() as stack:
            silence_ray_data()
            cluster = stack.enter_context(connect(address, None))
            gpu = cluster.gpus >= 1 and options.device != "cpu"
            actors = concurrency or max(1, int(cluster.gpus if gpu else cluster.cpus))
            for record in stream_records(todo, model, options, out, actors, gpu):
                if record.status == "refused":
                    what, _, remedy = record.reason.rpartition("; ")
                    raise UserError(what, remedy)
                records[names[record.portrait, record.driving]] = record
                notify(len(records), len(pairs))
    rows = [records[pair.name] for pair in pairs]
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows]), table)
    write_file(out / RESULTS_NAME, table.getvalue())
    return ListResult(out / RESULTS_NAME, rows, len(todo), time.monotonic() - began)
