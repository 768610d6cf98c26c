"""Writes what the charts have of code: the schema of a crew's values, dashboards, alerts.

Run as `python charts/render.py [--check]`, by `make crds` and by `make check`. The dashboards and alerts come of
charts/monitoring, the schema of the models: the chart's values are the fields of a Crew's spec, and its heartbeats
those of a Heartbeat's. So the schema is what the CRDs say of them, as JSON Schema: shapes, bounds and patterns. Rules
that join several fields are the API server's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from monitoring import alerts, panels
from monitoring.boards import BOARDS
from watchbill import crd, names

CHARTS: Final = Path(__file__).parent
SCHEMA: Final = CHARTS / "crew" / "values.schema.json"
MONITORING: Final = CHARTS / "watchbill" / "files"

_KUBERNETES: Final = "x-kubernetes-"
_NAME: Final = names.DNS_LABEL.pattern


def render() -> dict[Path, str]:
    """The text of every file. The same at every call."""
    found = {SCHEMA: schema()}
    for name, board in BOARDS.items():
        made = panels.render(board, alerts.RUNBOOKS)
        found[MONITORING / "dashboards" / f"{name}.json"] = _minified(made)
    found[MONITORING / "alerts.json"] = json.dumps({"groups": alerts.data()}, indent=1, ensure_ascii=False) + "\n"
    rules = yaml.safe_dump(alerts.render(), sort_keys=False, allow_unicode=True, width=120)
    found[MONITORING / "rules.yaml"] = (
        f"# Rendered from charts/monitoring/alerts.py by `make crds`. Do not edit.\n{rules}"
    )
    return found


def _minified(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n"


def schema() -> str:
    """The text of the schema of a crew's values."""
    crew, heartbeat = (_spec(text) for text in crd.render().values())
    del heartbeat["properties"]["crewRef"]
    heartbeat["required"] = [name for name in heartbeat.get("required", []) if name != "crewRef"]
    found = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "Generated from operator/watchbill/api by `make crds`. Do not edit.",
        "title": "Values of the chart crew",
        **_closed(crew),
        "description": "The fields of the Crew's spec, and those of the chart.",
    }
    found["properties"] |= {
        "crew": {
            "description": "The Crew as an object of Kubernetes.",
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "name": {
                    "description": "Name of the crew. Default: the release's.",
                    "type": "string",
                    "pattern": f"^({_NAME})?$",
                    "maxLength": names.CREW_NAME_MAX,
                },
                "labels": {"description": "Labels besides the chart's.", **_TEXTS},
                "annotations": {"description": "Annotations.", **_TEXTS},
            },
        },
        "heartbeats": {
            "description": "Heartbeats of the crew by name, each with the fields of a Heartbeat's spec but crewRef; "
            "null removes one of another file of values.",
            "type": "object",
            # not propertyNames, of whose errors Helm names another place
            "patternProperties": {f"^{_NAME}$": {**_closed(heartbeat), "type": ["object", "null"]}},
            "additionalProperties": False,
        },
        "podDisruptionBudget": {
            "description": "A PodDisruptionBudget for the crew's workers.",
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "enabled": {"description": "Make one.", "type": "boolean"},
                "maxUnavailable": {
                    "description": "Workers that may be away at once: a number, or a share such as 25%.",
                    "type": ["integer", "string"],
                    "minimum": 1,
                    "pattern": "^[1-9][0-9]?%$",
                },
            },
        },
        "global": {"description": "Helm's own, where this chart is part of another.", "type": "object"},
    }
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


_TEXTS: Final = {"type": "object", "additionalProperties": {"type": "string"}}


def _spec(definition: str) -> dict[str, Any]:
    (version,) = yaml.safe_load(definition)["spec"]["versions"]
    return dict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])


def _closed(node: Mapping[str, Any]) -> dict[str, Any]:
    """One node of a CRD's schema as JSON Schema, in which unknown fields are refused as the API server does it."""
    found = {key: value for key, value in node.items() if not key.startswith(_KUBERNETES)}
    if node.get(f"{_KUBERNETES}list-type") == "set":
        found["uniqueItems"] = True
    if "properties" in node:
        found["properties"] = {name: _closed(child) for name, child in node["properties"].items()}
        if not node.get(f"{_KUBERNETES}preserve-unknown-fields"):
            found["additionalProperties"] = False
    elif isinstance(node.get("additionalProperties"), Mapping):
        found["additionalProperties"] = _closed(node["additionalProperties"])
    if "items" in node:
        found["items"] = _closed(node["items"])
    return found


def main() -> int:
    """Writes the files, or with --check compares them. Returns 1 when one differs from the code."""
    parser = argparse.ArgumentParser(prog="python charts/render.py", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    check = parser.parse_args().check
    stale = 0
    for path, text in render().items():
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"{path}: not what the code says. Run: make crds\n")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
