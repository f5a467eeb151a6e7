"""Manifests as kubectl composes them: valid, with commands that parse and parts that fit."""

import functools
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from command_line import KUBERAY, compose, parse
from ray._private import ray_constants

from pipelines.cluster.resources import parse_workers
from pipelines.tune.search_space import read_space
from xnemo.recipes import get_recipe

INFRA = KUBERAY.parent
FOLDERS = ["preprocess", "train", "tune", "nightly", "services"]
#: Jobs by folder.
JOBS = ["preprocess", "train", "tune", "nightly"]
VALUES = yaml.safe_load((KUBERAY / "values" / "values.yaml").read_text())["data"]


def job_specs(folder):
    """Return the RayJob specifications of a folder by name, those of schedules included."""
    return {
        manifest["metadata"]["name"]: manifest["spec"].get("jobTemplate", manifest["spec"])
        for manifest in compose(folder)
        if manifest["kind"] in ("RayJob", "RayCronJob")
    }


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


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_manifest_fits_the_published_schema(folder, shared_dir):
    kinds = []
    for manifest in compose(folder):
        kinds.append(manifest["kind"])
        if manifest["apiVersion"].startswith("ray.io/"):
            schema = schema_of(shared_dir / "fixtures" / "kuberay", manifest["kind"])
            jsonschema.validate(manifest, schema)
        else:
            kubernetes_validate.validate(manifest, "1.34", strict=True)
    assert kinds


def test_the_schema_checks_see_a_misspelt_field(shared_dir):
    (job,) = [m for m in compose("train") if m["kind"] == "RayJob"]
    text = yaml.safe_dump(job).replace("maxReplicas", "maxReplica", 1)
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(
            yaml.safe_load(text), schema_of(shared_dir / "fixtures" / "kuberay", "RayJob")
        )
    for manifest in compose("services"):
        manifest = {**manifest, "spec": {**manifest["spec"], "misspelt": 1}}
        with pytest.raises(kubernetes_validate.ValidationError, match="misspelt"):
            kubernetes_validate.validate(manifest, "1.34", strict=True)


def test_a_folder_applies_what_it_is_for_and_no_other_job():
    names = {f: sorted(m["metadata"]["name"] for m in compose(f)) for f in FOLDERS}
    assert names == {
        "preprocess": ["xnemo-preprocess"],
        "train": ["xnemo-train"],
        "tune": ["xnemo-space", "xnemo-tune"],
        "nightly": ["xnemo-nightly-preprocess", "xnemo-nightly-train"],
        "services": [
            "mlflow", "mlflow", "postgres", "postgres", "xnemo-closed", "xnemo-mlflow",
            "xnemo-postgres", "xnemo-ray", "xnemo-runs",
        ],
    }  # fmt: skip


def test_every_value_reaches_every_place_that_shows_it(tmp_path):
    """Change all values: no old one stays anywhere, and every new one appears."""
    shutil.copytree(KUBERAY, tmp_path / "kuberay")
    path = tmp_path / "kuberay" / "values" / "values.yaml"
    changed = {
        name: str(7000 + number) if re.fullmatch(r"\d+", value) else f"changed-{name}"
        for number, (name, value) in enumerate(VALUES.items())
    }
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"data": changed}))
    texts = []
    for folder in FOLDERS:
        before = yaml.safe_dump(compose(folder), width=10_000)
        after = yaml.safe_dump(compose(folder, tmp_path / "kuberay"), width=10_000)
        texts.append(after)
        for name, value in VALUES.items():
            # Short values are also other things: numbers, and words such as "gpu" or "image".
            if len(value) > 10 and value in before:
                assert value not in after, (folder, name)
    for name, value in changed.items():
        assert any(value in text for text in texts), name
    # Placeholders of the definitions are gone, too.
    assert not re.search(r"\b[A-Z]{3,}:?[A-Z]* ", " ".join(re.findall(r"entrypoint: .*", texts[0])))


@pytest.mark.parametrize("folder", JOBS)
def test_every_command_parses_with_the_real_command_line(folder):
    for name, spec in job_specs(folder).items():
        # The operator pastes the command into a shell of the submitting pod as it is.
        assert not set("$`\"'\\;&|<>(){}*?~#!") & set(spec["entrypoint"]), name
        assert not re.search(r"\b[A-Z]{3,}\b", spec["entrypoint"]), name
        assert parse(spec["entrypoint"])["address"] == "auto"


def pods(node):
    """Yield the specifications of all pods in a manifest."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for value in node.values():
            yield from pods(value)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_pod_is_unprivileged_and_holds_no_secret(folder):
    found = list(pods(compose(folder)))
    assert found
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            for variable in container.get("env", ()):
                assert not re.search(r"PASSWORD|SECRET|TOKEN|KEY", variable["name"]) or (
                    "secretKeyRef" in variable["valueFrom"]
                )


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_mount_has_its_volume_and_every_volume_its_claim(folder):
    everywhere = [m for f in FOLDERS for m in compose(f)]
    claims = {m["metadata"]["name"] for m in everywhere if m["kind"] == "PersistentVolumeClaim"}
    for manifest in compose(folder):
        templates = manifest.get("spec", {}).get("volumeClaimTemplates", ())
        own = {template["metadata"]["name"] for template in templates}
        for pod in pods(manifest):
            volumes = {v["name"]: v for v in pod.get("volumes", [])}
            for container in pod["containers"]:
                mounts = {m["name"] for m in container.get("volumeMounts", [])}
                assert mounts <= volumes.keys() | own
            for volume in volumes.values():
                if "persistentVolumeClaim" in volume:
                    assert volume["persistentVolumeClaim"]["claimName"] in claims


@pytest.mark.parametrize("folder", ["train", "tune", "nightly"])
def test_runs_lie_where_all_nodes_of_a_job_can_write(folder):
    for name, spec in job_specs(folder).items():
        if name == "xnemo-nightly-preprocess":
            continue
        out = str(parse(spec["entrypoint"])["runs_dir"])
        for pod in pods(spec):
            (container,) = pod["containers"]
            assert out in [mount["mountPath"] for mount in container["volumeMounts"]]
    (claim,) = [m for m in compose("services") if m["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("folder", ["train", "tune"])
def test_a_node_is_drained_within_the_time_that_its_pod_is_given(folder):
    for spec in job_specs(folder).values():
        for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            variables = {v["name"]: v.get("value") for v in pod["containers"][0]["env"]}
            drained = float(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
            # Of this name, or it would do nothing.
            assert hasattr(ray_constants, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")
            assert 30 < drained < pod["terminationGracePeriodSeconds"]


def of_nodes(group, resource, replicas="maxReplicas"):
    """Return how much of a resource the most (or least) nodes of a group have together."""
    (container,) = group["template"]["spec"]["containers"]
    return group[replicas] * int(container["resources"]["limits"][resource])


def test_a_job_asks_for_what_its_cluster_may_grow_to():
    (spec,) = job_specs("preprocess").values()
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert parse(spec["entrypoint"])["concurrency"] == of_nodes(group, "cpu")
    for spec in (*job_specs("train").values(), job_specs("nightly")["xnemo-nightly-train"]):
        groups = spec["rayClusterSpec"]["workerGroupSpecs"]
        workers = parse_workers(parse(spec["entrypoint"])["workers"])
        gpus = "nvidia.com/gpu"
        assert workers.least == sum(of_nodes(g, gpus, "minReplicas") for g in groups)
        assert workers.most == sum(of_nodes(g, gpus) for g in groups)
        # Spot nodes first, where both fit.
        kinds = {g["groupName"]: g.get("priority", 0) for g in groups}
        assert kinds == {"gpu-on-demand": 0, "gpu-spot": 1}
    (spec,) = job_specs("tune").values()
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert parse_workers(parse(spec["entrypoint"])["workers"]).most <= of_nodes(
        {**group, "maxReplicas": 1}, "nvidia.com/gpu"
    )


@pytest.mark.parametrize("folder", JOBS)
def test_every_job_is_retried_limited_cleaned_up_and_authenticated(folder):
    for spec in job_specs(folder).values():
        assert spec["backoffLimit"] > 0
        assert spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"] > 0
        assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
        rules = spec["deletionStrategy"]["deletionRules"]
        # After success and after failure; KubeRay takes either these rules or a time to live.
        for ending in ("SUCCEEDED", "Failed"):
            own = [r for r in rules if ending in r["condition"].values()]
            ages = {r["policy"]: r["condition"]["ttlSeconds"] for r in own}
            assert ages["DeleteCluster"] <= ages["DeleteSelf"]
        assert not spec.keys() & {"shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}


def test_scheduled_jobs_end_before_the_next_and_run_on_the_cluster_of_the_job_of_their_kind():
    once = {**job_specs("preprocess"), **job_specs("train")}
    for manifest in compose("nightly"):
        name, spec = manifest["metadata"]["name"], manifest["spec"]
        minute, hour, *rest = spec["schedule"].split()
        assert (minute.isdigit(), hour.isdigit(), rest) == (True, True, ["*", "*", "*"])
        assert spec["jobTemplate"]["activeDeadlineSeconds"] < 86_400
        twin = once[name.replace("nightly-", "")]
        assert spec["jobTemplate"]["rayClusterSpec"] == twin["rayClusterSpec"]


def test_the_search_space_fits_the_recipe(tmp_path):
    (space,) = [m for m in compose("tune") if m["kind"] == "ConfigMap"]
    (spec,) = job_specs("tune").values()
    path = Path(parse(spec["entrypoint"])["space"])
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert str(path.parent) in [m["mountPath"] for m in head["containers"][0]["volumeMounts"]]
    (tmp_path / path.name).write_text(space["data"][path.name])
    assert read_space(tmp_path / path.name, get_recipe(VALUES["recipe"]))


def test_services_are_closed_but_to_those_that_use_them():
    policies = [m for m in compose("services") if m["kind"] == "NetworkPolicy"]
    specs = {p["metadata"]["name"]: p["spec"] for p in policies}
    assert specs.pop("xnemo-closed") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    servers = [m for m in compose("services") if m["kind"] in ("Deployment", "StatefulSet")]
    for server in servers:
        pod = server["spec"]["template"]
        labels = pod["metadata"]["labels"]
        (policy,) = [s for s in specs.values() if s["podSelector"]["matchLabels"] == labels]
        ports = [p["containerPort"] for p in pod["spec"]["containers"][0]["ports"]]
        for rule in policy["ingress"]:
            assert rule["from"]
            assert [p["port"] for p in rule["ports"]] == ports


@pytest.mark.parametrize("folder", JOBS)
def test_ray_version_is_the_pinned_one(folder):
    pins = (INFRA.parent / "constraints.txt").read_text().splitlines()
    pinned = next(line.removeprefix("ray==") for line in pins if line.startswith("ray=="))
    for spec in job_specs(folder).values():
        assert spec["rayClusterSpec"]["rayVersion"] == pinned


def test_slurm_script_is_valid_bash():
    script = INFRA / "slurm" / "xnemo.sbatch"
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_tracking_goes_to_the_server_that_is_there():
    names = {m["metadata"]["name"] for m in compose("services") if m["kind"] == "Service"}
    for folder in ("train", "tune", "nightly"):
        for spec in job_specs(folder).values():
            words = shlex.split(spec["entrypoint"])
            if "--tracking-uri" in words:
                uri = words[words.index("--tracking-uri") + 1]
                assert re.fullmatch(r"http://([\w-]+):5000", uri)[1] in names
