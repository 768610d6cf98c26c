"""The values of the chart of a crew: their schema takes what a Crew takes, and names what is wrong.

Helm itself is run in e2e/control_plane/test_chart_crew.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import watchbill
from watchbill.api.crew import CrewSpec
from watchbill.api.heartbeat import HeartbeatSpec

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "crew"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
AGENT = {"name": "a", "class": "EchoAgent"}
EVERY_HOUR = {"intervalSeconds": 3600}


def wrong(values: dict[str, Any]) -> list[tuple[str, str]]:
    """(path, keyword) of each fault, e.g. ("workers/maxReplicas", "maximum")."""
    found = jsonschema.Draft7Validator(SCHEMA).iter_errors({"crew": {}, "agents": [AGENT], **values})
    return sorted(("/".join(map(str, error.absolute_path)), str(error.validator)) for error in found)


@pytest.mark.parametrize("file", sorted((ROOT / "examples").rglob("crew.yaml")), ids=lambda path: path.parent.name)
def test_the_spec_of_a_crew_is_values(file: Path) -> None:
    crew = yaml.safe_load(file.read_text())
    assert wrong(crew["spec"]) == []


def test_the_example_in_its_readme_is_values() -> None:
    _, _, rest = (CHART / "README.md").read_text().partition("```yaml\n")
    values = yaml.safe_load(rest.partition("```")[0])
    assert values["heartbeats"]
    assert wrong(values) == []


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"agents": []}, ("agents", "minItems")),
        ({"agents": [{"class": "EchoAgent"}]}, ("agents/0", "required")),
        ({"agents": [{**AGENT, "clas": "x"}]}, ("agents/0", "additionalProperties")),
        ({"agents": [{**AGENT, "tools": ["x", "x"]}]}, ("agents/0/tools", "uniqueItems")),
        ({"executionmode": "flow"}, ("", "additionalProperties")),
        ({"executionMode": "flows"}, ("executionMode", "enum")),
        ({"workers": {"maxReplicas": 1001}}, ("workers/maxReplicas", "maximum")),
        ({"workers": {"envFrom": [{"secretref": {"name": "x"}}]}}, ("workers/envFrom/0", "additionalProperties")),
        ({"delivery": [{"name": "Ops", "log": {}}]}, ("delivery/0/name", "pattern")),
        ({"delivery": [{"name": "ops", "webhook": {"uri": "x"}}]}, ("delivery/0/webhook", "additionalProperties")),
        ({"heartbeats": {"Daily": EVERY_HOUR}}, ("heartbeats", "additionalProperties")),
        ({"heartbeats": {"x": {**EVERY_HOUR, "crewRef": {"name": "a"}}}}, ("heartbeats/x", "additionalProperties")),
        ({"heartbeats": {"x": {"intervalSeconds": 0}}}, ("heartbeats/x/intervalSeconds", "minimum")),
        ({"crew": {"name": "a" * 53}}, ("crew/name", "maxLength")),
        ({"crew": {"labels": {"a": 1}}}, ("crew/labels/a", "type")),
        ({"podDisruptionBudget": {"maxUnavailable": 0}}, ("podDisruptionBudget/maxUnavailable", "minimum")),
        ({"podDisruptionBudget": {"maxUnavailable": "0%"}}, ("podDisruptionBudget/maxUnavailable", "pattern")),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], found: tuple[str, str]) -> None:
    assert wrong(values) == [found]


def test_what_a_release_may_leave_open_may_be_left_open() -> None:
    free = {"config": {"any": {"thing": [1]}}}
    assert wrong({"agents": [{**AGENT, **free}], "workers": {"template": {"spec": {"tolerations": []}}}}) == []
    assert wrong({"crew": {"name": ""}, "heartbeats": {"x": None, "y": EVERY_HOUR}, "global": {"a": 1}}) == []


def test_its_values_show_every_field_of_a_crew() -> None:
    text = (CHART / "values.yaml").read_text()
    fields = {field.alias for field in CrewSpec.model_fields.values()}
    assert fields | {"crew", "heartbeats", "podDisruptionBudget", "global"} == set(SCHEMA["properties"])
    assert [
        name for name in sorted(filter(None, fields)) if f"\n# {name}:" not in text and f"\n{name}:" not in text
    ] == []
    (heartbeat,) = SCHEMA["properties"]["heartbeats"]["patternProperties"].values()
    assert {field.alias for field in HeartbeatSpec.model_fields.values()} - {"crewRef"} == set(heartbeat["properties"])


def test_its_version_is_the_projects() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == watchbill.__version__
