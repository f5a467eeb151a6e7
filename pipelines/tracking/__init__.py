"""What a run tells the world: a journal on disk, always, and MLflow when it answers.

Training only ever appends to the journal. A thread sends the journal on to MLflow and remembers how
far it came; what a dead, slow or silent server missed is sent later by `sync`, from the same
journal, by the same code.
"""

from pipelines.tracking.journal import Journal
from pipelines.tracking.sender import Sender
from pipelines.tracking.store import TrackingStore, choose_uri, default_uri
from pipelines.tracking.sync import SyncResult, sync

__all__ = [
    "Journal",
    "Sender",
    "SyncResult",
    "TrackingStore",
    "choose_uri",
    "default_uri",
    "sync",
]
