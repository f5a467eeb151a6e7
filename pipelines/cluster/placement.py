"""What the workers of a run hold on a cluster, noted so that it can be given back for them.

When a search ends a trial, the process that waits for its workers goes at once, and Ray Train's
controller with it. What it had reserved is then given back by a helper of Ray's that asks Ray's
dashboard whether the controller lives, and a private Ray has none: the next trial would wait for
ever.
"""

import contextlib
import threading
from pathlib import Path

_FILE = ".placement"

# A trial's process ends within a second or so of being told to, and its controller with it.
_CONTROLLER_GONE_S = 5.0


def note_placement(run_dir: Path) -> None:
    """Note the placement group of the worker that calls this."""
    import ray

    group = ray.util.get_current_placement_group()
    if group is not None:
        (run_dir / _FILE).write_text(group.id.hex())


def forget_placement(run_dir: Path) -> None:
    """Forget it, after workers that ended in good order."""
    (run_dir / _FILE).unlink(missing_ok=True)


def release_placement(run_dir: Path) -> None:
    """Give back what was noted; nothing where nothing was."""
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    with contextlib.suppress(FileNotFoundError):
        group = PlacementGroupID(bytes.fromhex((run_dir / _FILE).read_text()))
        remove_placement_group(PlacementGroup(group))
        forget_placement(run_dir)


class PlacementReleases:
    """Gives back, a little later, what ended trials of a search held.

    Their controllers must be gone by then, or they would start their workers once more. Ray Tune's
    copies for later restarts have nothing to give back.
    """

    def __init__(self) -> None:
        """Begin with nothing to give back."""
        self._timers: list[threading.Timer] = []

    def after(self, run_dir: Path) -> None:
        """Give back what the run in ``run_dir`` held, once its controller is gone."""
        timer = threading.Timer(_CONTROLLER_GONE_S, release_placement, (run_dir,))
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def wait(self) -> None:
        """Return when everything has been given back."""
        for timer in self._timers:
            timer.join()

    def __reduce__(self) -> tuple[type["PlacementReleases"], tuple[()]]:
        """Leave the timers behind."""
        return (PlacementReleases, ())
