"""The Grafana dashboard and the alerts ask only for what the pinned Ray and our jobs measure."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import ray
import yaml

from pipelines.cluster.metrics import METRICS

INFRA = Path(__file__).resolve().parents[2] / "infra"
DASHBOARD = json.loads((INFRA / "dashboards" / "xnemo.json").read_text())
ALERTS = yaml.safe_load((INFRA / "dashboards" / "alerts.yaml").read_text())
OWN = {f"ray_{name}" for name in METRICS}
# Ray's own dashboards come inside its package.
PANELS = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"


@pytest.fixture(scope="module")
def measured():
    sources = "".join(path.read_text() for path in sorted(PANELS.glob("*_panels.py")))
    return set(re.findall(r"\bray_[a-z_]+", sources)) | OWN


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_every_value_is_one_that_is_measured(panel, measured):
    for target in panel["targets"]:
        names = set(re.findall(r"\bray_[a-z_]+(?=\{)", target["expr"]))
        assert names
        assert names <= measured
        assert target["expr"].count('ray_io_cluster=~"$cluster"') == len(names)


def test_every_measurement_of_our_jobs_is_shown_or_alerted_on():
    asked = json.dumps(DASHBOARD) + json.dumps(ALERTS)
    assert {name for name in OWN if name not in asked} == set()


@pytest.mark.parametrize("rule", ALERTS["groups"][0]["rules"], ids=lambda rule: rule["alert"])
def test_every_alert_asks_for_what_is_measured_and_names_its_labels(rule):
    names = set(re.findall(r"\bray_(?!io_cluster)[a-z_]+", rule["expr"]))
    assert names
    assert names <= OWN
    labels = {label for name in names for label in METRICS[name.removeprefix("ray_")][2]}
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= labels
    assert rule["labels"]["severity"] in ("warning", "critical")


def test_alerts_fire_for_a_stalled_and_a_collapsed_run_only(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: apt-get install prometheus")

    def series(name, run, values):
        labels = f'ray_io_cluster="c", run="{run}"'
        return {"series": f"ray_xnemo_{name}{{{labels}}}", "values": values}

    runs = {
        "fine": ("0+10x60", "0.3x60"),
        "stalled": ("80x60", "0.3x60"),
        "dead": ("0+9x60", "0x60"),
    }
    inputs = [
        one
        for run, (seen, std) in runs.items()
        for one in (
            series("training", run, "1x60"),
            series("samples_seen", run, seen),
            series("latent_std", run, std),
        )
    ]
    # A run that has ended neither trains nor stalls.
    inputs += [series("training", "ended", "0x60"), series("samples_seen", "ended", "80x60")]
    expected = {"TrainingStalled": "stalled", "MotionLatentCollapsed": "dead"}
    rules = {rule["alert"]: rule for rule in ALERTS["groups"][0]["rules"]}
    cases = []
    for alert, run in expected.items():
        rule, labels = rules[alert], {"run": run, "ray_io_cluster": "c"}
        notes = {k: v.replace("{{ $labels.run }}", run) for k, v in rule["annotations"].items()}
        fired = {"exp_labels": labels | rule["labels"], "exp_annotations": notes}
        cases.append({"eval_time": "50m", "alertname": alert, "exp_alerts": [fired]})
    test = {
        "rule_files": [str(INFRA / "dashboards" / "alerts.yaml")],
        "tests": [{"interval": "1m", "input_series": inputs, "alert_rule_test": cases}],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_have_numbers_and_places_of_their_own():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}) == len(panels)


def test_the_monitor_gives_values_the_label_that_the_dashboard_selects_by():
    monitor = yaml.safe_load((INFRA / "kuberay" / "pod_monitor.yaml").read_text())
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert [rule["targetLabel"] for rule in endpoint["relabelings"]] == ["ray_io_cluster"]
