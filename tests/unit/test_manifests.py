"""Cluster manifests: KubeRay's own schemas accept them, and their commands parse."""

import functools
import shlex
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

INFRA = Path(__file__).resolve().parents[2] / "infra"
JOBS = ["preprocess.yaml", "train.yaml", "nightly_preprocess.yaml"]


@functools.cache
def schema_of(folder: Path, kind: str) -> dict:
    """Return the OpenAPI schema of a KubeRay kind, with unknown fields refused."""
    # The definitions are megabytes of YAML: libyaml reads them in a second, Python in twenty.
    text = (folder / f"ray.io_{kind.lower()}s.yaml").read_text()
    definition = yaml.load(text, Loader=yaml.CSafeLoader)
    version = next(v for v in definition["spec"]["versions"] if v["name"] == "v1")
    return refuse_unknown_fields(version["schema"]["openAPIV3Schema"])


def refuse_unknown_fields(node):
    """Kubernetes drops what it does not know in silence; a test must not."""
    if isinstance(node, list):
        return [refuse_unknown_fields(item) for item in node]
    if not isinstance(node, dict):
        return node
    strict = {key: refuse_unknown_fields(value) for key, value in node.items()}
    if (
        isinstance(node.get("properties"), dict)
        and "additionalProperties" not in node
        and not node.get("x-kubernetes-preserve-unknown-fields")
        # The CRD leaves metadata's fields to Kubernetes itself.
        and "metadata" not in node.get("properties", {})
    ):
        strict["additionalProperties"] = False
    return strict


def commands(manifest: dict) -> str:
    """Return the command line of a RayJob or RayCronJob."""
    spec = manifest["spec"]
    return spec.get("jobTemplate", spec)["entrypoint"]


@pytest.mark.parametrize("name", JOBS)
def test_manifest_fits_the_published_schema(name, shared_dir):
    manifest = yaml.safe_load((INFRA / "kuberay" / name).read_text())
    schema = schema_of(shared_dir / "fixtures" / "kuberay", manifest["kind"])
    jsonschema.validate(manifest, schema)


def test_the_schema_check_sees_a_misspelt_field(shared_dir):
    manifest = yaml.safe_load((INFRA / "kuberay" / "train.yaml").read_text())
    manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(manifest, schema_of(shared_dir / "fixtures" / "kuberay", "RayJob"))


@pytest.mark.parametrize("name", JOBS)
def test_the_entrypoint_is_a_command_of_ours(name):
    """Every option a manifest uses is one that the command's help tells of."""
    manifest = yaml.safe_load((INFRA / "kuberay" / name).read_text())
    program, command, *words = shlex.split(commands(manifest))
    assert program == "xnemo"

    from typer.main import get_command

    from pipelines.cli import app

    options = {
        option
        for parameter in get_command(app).commands[command].params
        for option in parameter.opts
    }
    used = {word for word in words if word.startswith("--")}
    assert used <= options


@pytest.mark.parametrize("name", JOBS)
def test_ray_version_is_the_pinned_one(name):
    pins = (INFRA.parent / "constraints.txt").read_text().splitlines()
    pinned = next(line.removeprefix("ray==") for line in pins if line.startswith("ray=="))
    assert f'rayVersion: "{pinned}"' in (INFRA / "kuberay" / name).read_text()
    assert f'"ray[default]=={pinned}"' in (INFRA / "Dockerfile").read_text()


def test_slurm_script_is_valid_bash():
    script = INFRA / "slurm" / "xnemo.sbatch"
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
