"""Tracking of runs in MLflow.

A job only ever appends to its run log. A thread (`Sender`) copies the log to MLflow and saves how
far it came; what a server missed while it was away is sent later by `sync`, from the same log.
"""

from pipelines.tracking.sender import Sender
from pipelines.tracking.sync import SyncResult, sync
from pipelines.tracking.uri import choose_uri, default_uri
from xnemo.training.monitor.run_log import RunLog

__all__ = ["RunLog", "Sender", "SyncResult", "choose_uri", "default_uri", "sync"]
