"""The chart makes the alerts of its values as they are in the plain file of rules, and changes them as values say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import machine, monitoring
from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane.charts import CHART, Helm

RULES = CHART / "files" / "rules.yaml"


@pytest.fixture(scope="module")
def promtool() -> Path:
    """Skips where it can't be had; not in CI, which unpacks Debian's."""
    if monitoring.lacking() and not os.environ.get("CI"):
        pytest.skip("no Prometheus here: make test-cluster unpacks it on Debian and Ubuntu")
    return monitoring.path("promtool")


def alerts(rules: dict[str, Any]) -> dict[str, Any]:
    """The alerts by name."""
    return {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule}


def test_the_chart_makes_the_same_rules_and_changed_ones_where_values_say_so(
    control_plane: ControlPlane, promtool: Path, tmp_path: Path
) -> None:
    helm = Helm(control_plane)

    def made(**given: Any) -> dict[str, Any]:
        words = ("template", "some", CHART, "--namespace=default", "--show-only=templates/alerts.yaml")
        text = helm(*words, values={"alerts": {"enabled": True, **given}})
        spec: dict[str, Any] = yaml.safe_load(text)["spec"]
        return spec

    plain = yaml.safe_load(RULES.read_text())
    assert made() == plain
    changed = made(
        rules={
            "WatchbillWorkWaits": {"for": "5m", "severity": "critical", "thresholds": {"critical": 30.5}},
            "WatchbillTakeovers": {"enabled": False},
            "WatchbillLeaseRenewalsLate": {"thresholds": {"late": 0}},
        },
        objective={"share": 0.999, "seconds": 2.5},
    )
    assert set(alerts(plain)) - set(alerts(changed)) == {"WatchbillTakeovers"}
    waits = alerts(changed)["WatchbillWorkWaits"]
    assert (waits["for"], waits["labels"]["severity"]) == ("5m", "critical")
    assert '{priority="critical"}) > 30.5 or' in waits["expr"]
    assert '{priority="high"}) > 300 or' in waits["expr"]
    assert alerts(changed)["WatchbillLeaseRenewalsLate"]["expr"].endswith("[10m])) > 0")
    burns = alerts(changed)["WatchbillWaitBudgetBurnsFast"]
    assert "14.4 * (1 - 0.999)" in burns["expr"]
    assert "longer than 2.5 s" in burns["annotations"]["description"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(changed))
    assert "SUCCESS" in machine.run([promtool, "check", "rules", tmp_path / "rules.yaml"])
