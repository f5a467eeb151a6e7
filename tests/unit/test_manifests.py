"""Cluster manifests: KubeRay's own schemas accept them, and their parts fit one another."""

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


def pod_specs(node):
    """Yield the specifications of all pods in a manifest."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for value in node.values():
            yield from pod_specs(value)


def test_every_volume_is_claimed_and_every_mount_has_its_volume():
    manifests = [
        manifest
        for path in sorted((INFRA / "kuberay").glob("*.yaml"))
        for manifest in yaml.safe_load_all(path.read_text())
    ]
    kinds = [(m["kind"], m["metadata"].get("name")) for m in manifests]
    claims = {name for kind, name in kinds if kind == "PersistentVolumeClaim"}
    pods = list(pod_specs(manifests))
    assert len(pods) == 7
    for pod in pods:
        volumes = {v["name"]: v for v in pod.get("volumes", [])}
        for container in pod["containers"]:
            assert {m["name"] for m in container.get("volumeMounts", [])} <= volumes.keys()
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims


def test_runs_lie_where_all_nodes_of_a_training_job_can_write():
    manifest = yaml.safe_load((INFRA / "kuberay" / "train.yaml").read_text())
    words = shlex.split(manifest["spec"]["entrypoint"])
    out = words[words.index("--runs-dir") + 1]
    for pod in pod_specs(manifest):
        (container,) = pod["containers"]
        assert out in [mount["mountPath"] for mount in container["volumeMounts"]]
    (claim,) = yaml.safe_load_all((INFRA / "kuberay" / "runs_volume.yaml").read_text())
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_a_preprocessing_job_asks_for_what_its_cluster_may_grow_to():
    manifest = yaml.safe_load((INFRA / "kuberay" / "preprocess.yaml").read_text())
    words = shlex.split(manifest["spec"]["entrypoint"])
    (group,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    most = group["maxReplicas"] * int(container["resources"]["limits"]["cpu"])
    assert int(words[words.index("--concurrency") + 1]) == most


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
