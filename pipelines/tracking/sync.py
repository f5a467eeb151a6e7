"""`xnemo sync`: send what a tracking store lacks of a run."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.tracking.delivery import Delivery, known_stores
from pipelines.tracking.uri import default_uri, limit_waiting
from preprocessing.errors import UserError, first_line
from xnemo.training.monitor.run_log import read_records


@dataclass(frozen=True)
class SyncResult:
    """Outcome of a sync."""

    # URI of the store.
    uri: str
    # MLflow's id of the run there.
    run_id: str | None
    # Records sent by this call; 0 if the store had all of them.
    sent: int
    # Number of records that the store refused, and the last reason.
    refused: int
    refusal: str | None


def sync(run_dir: str | Path, uri: str | None = None) -> SyncResult:
    """Send all records of a run that the store at ``uri`` lacks.

    Args:
        run_dir: folder of the run.
        uri: MLflow tracking URI; None for the one store that has received records of this run, or
            else the SQLite file beside the run folder.

    Raises:
        UserError: the folder is not a run, several stores are known, or the store does not answer.
    """
    folder = Path(run_dir)
    total = sum(1 for _ in read_records(folder))
    limit_waiting()
    target = uri or _only_store(folder)
    delivery = Delivery(folder, target)
    before = delivery.position.next_seq
    try:
        while delivery.send_batch():
            pass
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"MLflow at {target} has {delivery.position.next_seq} of {total} records and stopped "
            f"answering ({first_line(error)})",
            "run the same command again when it is back",
        ) from error
    position = delivery.position
    sent = position.next_seq - before
    return SyncResult(target, position.run_id, sent, position.refused, position.refusal)


def _only_store(run_dir: Path) -> str:
    known = known_stores(run_dir)
    if len(known) > 1:
        raise UserError(
            f"{run_dir} is tracked in {len(known)} stores: {', '.join(known)}",
            f"name one: xnemo sync {run_dir} URI",
        )
    return known[0] if known else default_uri(run_dir.parent)
