"""Send a finished or stopped run's records to MLflow: `xnemo sync RUN`."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.tracking import journal
from pipelines.tracking.delivery import Delivery
from pipelines.tracking.progress import known_stores
from pipelines.tracking.store import default_uri, set_limits
from preprocessing.errors import UserError, first_line


@dataclass(frozen=True)
class SyncResult:
    """What a sync did."""

    # The store.
    uri: str
    # MLflow's id of the run there.
    run_id: str | None
    # Entries sent now; 0 when nothing was missing.
    sent: int
    # Entries that the store will never take, and the last reason.
    refused: int
    refusal: str | None


def sync(run_dir: str | Path, uri: str | None = None) -> SyncResult:
    """Send everything that the store at ``uri`` lacks of a run; doing it again sends nothing.

    Args:
        run_dir: folder of the run, with its journal.
        uri: MLflow tracking URI; None for the one store the run was tracked in so far, else the
            SQLite file beside the run.

    Raises:
        UserError: the folder is no run, several stores are known, or the store does not answer.
    """
    folder = Path(run_dir)
    total = sum(1 for _ in journal.read(folder))
    set_limits()
    target = uri or _only_store(folder)
    delivery = Delivery(folder, target)
    before = delivery.progress.next_seq
    try:
        while delivery.send_batch():
            pass
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"MLflow at {target} has {delivery.progress.next_seq} of {total} records and stopped "
            f"answering ({first_line(error)})",
            "run the same command again when it is back",
        ) from error
    progress = delivery.progress
    sent = progress.next_seq - before
    return SyncResult(target, progress.run_id, sent, progress.refused, progress.refusal)


def _only_store(run_dir: Path) -> str:
    known = known_stores(run_dir)
    if len(known) > 1:
        raise UserError(
            f"{run_dir} was tracked in {len(known)} stores: {', '.join(known)}",
            "name one with --tracking-uri",
        )
    return known[0] if known else default_uri(run_dir.parent)
