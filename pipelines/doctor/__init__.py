"""Checks of this machine and of a recipe: what was found, and how to fix it."""

from collections.abc import Callable, Iterator

from pipelines.doctor.check import Check, State
from pipelines.doctor.faces import check_faces
from pipelines.doctor.machine import check_machine
from pipelines.doctor.recipe import check_recipe
from pipelines.doctor.services import check_services
from pipelines.doctor.video import check_decoders
from preprocessing.errors import first_line
from xnemo.training.config import TrainConfig

__all__ = ["Check", "State", "run_doctor"]


def run_doctor(config: TrainConfig | None = None, gpu: str | None = None) -> list[Check]:
    """Return the checks of everything that is required or optional.

    An exception in a check is reported as that check's result and does not affect the others.

    Args:
        config: recipe whose memory, compute and weights are checked as well.
        gpu: GPU to check the recipe for, such as "H100"; None for this machine's.

    Raises:
        UserError: the GPU's name is unknown.
    """
    groups: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("machine", check_machine),
        ("decoders", check_decoders),
        ("faces", check_faces),
        ("services", check_services),
    ]
    checks: list[Check] = []
    for name, group in groups:
        checks += _collect(name, group)
    if config is not None:
        checks += check_recipe(config, gpu)
    return checks


def _collect(name: str, group: Callable[[], Iterator[Check]]) -> list[Check]:
    found: list[Check] = []
    try:
        # Keeps what was found before an exception.
        found.extend(group())
    except Exception as error:
        problem = f"the check failed: {first_line(error)}"
        found.append(Check(name, "missing", problem, "reinstall: pip install -e ."))
    return found
