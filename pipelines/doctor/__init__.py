"""What this machine has for the work, what is missing, and the command that mends it."""

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
    """Return one check for everything the work needs or can use.

    A check that itself fails is reported as a defect of what it looked at, so one broken library
    never hides the others.

    Args:
        config: recipe whose memory, arithmetic and weights are to be looked at as well.
        gpu: GPU to judge the recipe for, such as "H100"; None for the one of this machine.

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
        # One at a time, so that what was found before a defect is kept.
        found.extend(group())
    except Exception as error:
        problem = f"the check failed: {first_line(error)}"
        found.append(Check(name, "missing", problem, "reinstall: pip install -e ."))
    return found
