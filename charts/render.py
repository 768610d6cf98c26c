"""The models → charts/crew/values.schema.json. Run as `python charts/render.py [--check]`.

The chart's values are the fields of a Crew's spec, and its heartbeats those of a Heartbeat's. So the schema is what the
CRDs say of them, as JSON Schema: shapes, bounds and patterns. Rules that join several fields are the API server's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from watchbill import crd, names

FILE: Final = Path(__file__).parent / "crew" / "values.schema.json"

_KUBERNETES: Final = "x-kubernetes-"
_NAME: Final = names.DNS_LABEL.pattern


def render() -> str:
    """The text of the schema. The same at every call."""
    crew, heartbeat = (_spec(text) for text in crd.render().values())
    del heartbeat["properties"]["crewRef"]
    heartbeat["required"] = [name for name in heartbeat.get("required", []) if name != "crewRef"]
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "Generated from operator/watchbill/api by `make crds`. Do not edit.",
        "title": "Values of the chart crew",
        **_closed(crew),
        "description": "The fields of the Crew's spec, and those of the chart.",
    }
    schema["properties"] |= {
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
        "global": {"description": "Helm's own, where this chart is part of another.", "type": "object"},
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


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
    """Writes the file, or with --check compares it. Returns 1 when it differs from the models."""
    parser = argparse.ArgumentParser(prog="python charts/render.py", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is not up to date")
    text = render()
    if not parser.parse_args().check:
        FILE.write_text(text, encoding="utf-8")
    elif not FILE.is_file() or FILE.read_text(encoding="utf-8") != text:
        sys.stderr.write(f"{FILE}: not what the models say. Run: make crds\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
