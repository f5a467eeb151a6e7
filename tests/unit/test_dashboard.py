"""The Grafana dashboard asks only for what the pinned Ray measures."""

import json
import re
from pathlib import Path

import pytest
import ray
import yaml

INFRA = Path(__file__).resolve().parents[2] / "infra"
DASHBOARD = json.loads((INFRA / "dashboards" / "xnemo.json").read_text())
# Ray's own dashboards come inside its package.
PANELS = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"


@pytest.fixture(scope="module")
def measured():
    sources = "".join(path.read_text() for path in sorted(PANELS.glob("*_panels.py")))
    return set(re.findall(r"\bray_[a-z_]+", sources))


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_every_value_is_one_that_ray_has(panel, measured):
    for target in panel["targets"]:
        names = set(re.findall(r"\bray_[a-z_]+(?=\{)", target["expr"]))
        assert names
        assert names <= measured
        assert target["expr"].count('ray_io_cluster=~"$cluster"') == len(names)


def test_panels_have_numbers_and_places_of_their_own():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}) == len(panels)


def test_the_monitor_gives_values_the_label_that_the_dashboard_selects_by():
    monitor = yaml.safe_load((INFRA / "kuberay" / "pod_monitor.yaml").read_text())
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert [rule["targetLabel"] for rule in endpoint["relabelings"]] == ["ray_io_cluster"]
