"""Models of `watchbill.api` → CustomResourceDefinitions, as YAML. Run as `python -m watchbill.crd [--check] [DIR…]`.

The schemas are structural: no references, no unions, only what a CRD may hold. Everything about a field is declared
with the field, in `api/`; here is only the translation, and what belongs to a kind as a whole (names, columns,
subresources).
`render` is pure; only `main` touches files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from watchbill import cluster_names
from watchbill.api.crew import Crew
from watchbill.api.heartbeat import Heartbeat
from watchbill.errors import MissingExtra, needed

HEADER: Final = "# Generated from operator/watchbill/api by `make crds`. Do not edit.\n"

_KEPT: Final[tuple[str, ...]] = (
    *("type", "format", "description", "default", "enum", "nullable", "pattern"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("required", "properties", "additionalProperties", "items"),
)
"""The keys that a structural schema may have besides x-kubernetes extensions, in the order in which they are
written."""

_READY: Final = ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status')
_AGE: Final = ("Age", "date", ".metadata.creationTimestamp")
_REASON: Final = ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason')
_Columns = tuple[tuple[str, str, str], ...]

_CREW_COLUMNS: Final[_Columns] = (
    _READY,
    ("Mode", "string", ".spec.executionMode"),
    ("Workers", "integer", ".status.replicas"),
    ("Waiting", "integer", ".status.waiting"),
    ("Running", "integer", ".status.running"),
    ("Dead", "integer", ".status.dead"),
    _AGE,
)
_CREW_WIDE: Final[_Columns] = (
    ("Delayed", "integer", ".status.delayed"),
    ("Suspend", "boolean", ".spec.suspend"),
    ("Agents", "integer", ".status.agents"),
    ("Revision", "string", ".status.revision"),
    _REASON,
)
_HEARTBEAT_COLUMNS: Final[_Columns] = (
    _READY,
    ("Crew", "string", ".spec.crewRef.name"),
    ("Schedule", "string", ".spec.schedule"),
    ("Interval", "integer", ".spec.intervalSeconds"),
    ("Suspend", "boolean", ".spec.suspend"),
    ("Last", "date", ".status.lastFireTime"),
    ("Result", "string", ".status.lastResult"),
    # a date column shows an age, which a time to come has not
    ("Next", "string", ".status.nextFireTime"),
    _AGE,
)
_HEARTBEAT_WIDE: Final[_Columns] = (
    ("TimeZone", "string", ".spec.timeZone"),
    ("Agent", "string", ".spec.agent"),
    ("Missed", "integer", ".status.missedSlots"),
    _REASON,
)
_SCALE: Final = {
    "specReplicasPath": ".spec.workers.replicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".status.selector",
}


def render() -> dict[str, str]:
    """File name → text of every CRD. The same at every call. Raises MissingExtra without PyYAML."""
    return {f"{cluster_names.API_GROUP}_{d['spec']['names']['plural']}.yaml": _to_yaml(d) for d in definitions()}


def definitions() -> tuple[dict[str, Any], ...]:
    """The CRDs as objects, each anew at every call."""
    return (
        _definition(Crew, "crews", "crew", (_CREW_COLUMNS, _CREW_WIDE), {"scale": _SCALE}),
        _definition(Heartbeat, "heartbeats", "hb", (_HEARTBEAT_COLUMNS, _HEARTBEAT_WIDE), {}),
    )


def _definition(
    model: type[BaseModel],
    plural: str,
    short: str,
    columns: tuple[_Columns, _Columns],
    subresources: Mapping[str, Any],
) -> dict[str, Any]:
    """`columns`: those that kubectl always shows, and those that it adds with `-o wide`."""
    kind = model.__name__
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{cluster_names.API_GROUP}"},
        "spec": {
            "group": cluster_names.API_GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["watchbill"],
            },
            "conversion": {"strategy": "None"},
            "versions": [
                {
                    "name": cluster_names.API_VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [
                        {"name": name, "type": type_, "jsonPath": path, **({"priority": wide} if wide else {})}
                        for wide in (0, 1)
                        for name, type_, path in columns[wide]
                    ],
                    "subresources": {"status": {}, **subresources},
                    "schema": {"openAPIV3Schema": _root(model)},
                }
            ],
        },
    }


def _root(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True)
    root = _structural(schema, schema.get("$defs", {}))
    # what the API server itself checks about every resource
    root["properties"]["apiVersion"] = root["properties"]["kind"] = {"type": "string"}
    # the name is there for rules to point at, and nothing else of metadata may be declared
    root["properties"]["metadata"] = {"type": "object", "properties": {"name": {"type": "string"}}}
    root["required"] = ["spec"]
    return root


def _structural(schema: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """One node of a JSON schema as pydantic writes it, as a structural schema."""
    merged = _resolved(schema, known)
    node = {key: merged[key] for key in _KEPT if key in merged}
    node |= {key: value for key, value in sorted(merged.items()) if key.startswith("x-kubernetes-")}
    if "const" in merged:
        node["enum"] = [merged["const"]]
    if "properties" in node:
        node["properties"] = {name: _structural(child, known) for name, child in node["properties"].items()}
    if "items" in node:
        node["items"] = _structural(node["items"], known)
    if isinstance(node.get("additionalProperties"), Mapping):
        node["additionalProperties"] = _structural(node["additionalProperties"], known)
    else:
        node.pop("additionalProperties", None)
    if node.get("default") in ("", None, [], {}):
        # absent and empty mean the same everywhere; written out they would only fill every resource
        node.pop("default", None)
    return _defaulted(node)


def _resolved(schema: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the schema without `$ref`, and without the union by which pydantic says that a field may be left out."""
    rest = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf")}
    if "$ref" in schema:
        return {**_resolved(known[schema["$ref"].rpartition("/")[2]], known), **rest}
    if "anyOf" in schema:
        (one,) = (option for option in schema["anyOf"] if option.get("type") != "null")
        return {**_resolved(one, known), **rest}
    return rest


def _defaulted(node: dict[str, Any]) -> dict[str, Any]:
    """A part that may be left out as a whole, and all of whose fields have defaults, gets them when it is left out.

    Spelled out, because `default: {}` under a rule of CEL is refused.
    """
    properties = node.get("properties", {})
    defaults = {name: child["default"] for name, child in properties.items() if "default" in child}
    if defaults and "default" not in node and not node.get("required"):
        node["default"] = defaults
    return node


def field_paths(schema: Mapping[str, Any], prefix: str = "") -> set[str]:
    """The paths of all fields that an OpenAPI schema declares, as in `spec.agents[].name`."""
    found: set[str] = set()
    for name, child in schema.get("properties", {}).items():
        path = f"{prefix}.{name}" if prefix else name
        found |= {path} | field_paths(child, path)
    if isinstance(items := schema.get("items"), Mapping):
        found |= field_paths(items, f"{prefix}[]")
    return found


def _to_yaml(definition: Mapping[str, Any]) -> str:
    with needed("Writing YAML files", "cli"):
        import yaml

    class Plain(yaml.SafeDumper):
        """Writes equal parts out instead of pointing at the first by an alias."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    return HEADER + yaml.dump(dict(definition), Dumper=Plain, sort_keys=False, width=110, allow_unicode=True)


def main(arguments: list[str] | None = None) -> int:
    """Writes the files, or with --check compares them. Returns 1 when they differ from the models, 2 without PyYAML."""
    parser = argparse.ArgumentParser(prog="python -m watchbill.crd", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    parser.add_argument("folders", metavar="DIR", nargs="*", type=Path, default=[Path("crds")])
    options = parser.parse_args(arguments)
    try:
        rendered = {folder / name: text for name, text in render().items() for folder in options.folders}
    except MissingExtra as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if not options.check:
        for path, text in rendered.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return 0
    stale = [path for path, text in rendered.items() if _content(path) != text]
    for path in stale:
        sys.stderr.write(f"{path}: not what the models say. Run: make crds\n")
    return 1 if stale else 0


def _content(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
