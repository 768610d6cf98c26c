"""The code → the pages of docs/reference: settings, Crew, Heartbeat, the command line, metrics, conditions, events.

Run as `python docs/reference/render.py [--check]`: by `make reference`, and by `make check`.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client import Counter, Gauge, Histogram, Info

from watchbill import crd, metrics
from watchbill.api import conditions
from watchbill.event_causes import CAUSES
from watchbill.metrics import queues
from watchbill.settings import Settings, variable_of
from watchbill.worker.__main__ import WorkerSettings

FOLDER: Final = Path(__file__).parent
HEADER: Final = "<!-- Rendered from {source} by `make reference`. Do not edit. -->\n\n"


def render() -> dict[str, str]:
    """File name → text of every page. The same at every call."""
    crew, heartbeat = (yaml.safe_load(text) for text in crd.render().values())
    pages = {
        "settings.md": ("operator/watchbill/settings.py", _settings()),
        "crew.md": ("operator/watchbill/api/crew.py", _resource(crew)),
        "heartbeat.md": ("operator/watchbill/api/heartbeat.py", _resource(heartbeat)),
        "cli.md": ("operator/watchbill/cli", _commands()),
        "metrics.md": ("operator/watchbill/metrics/__init__.py", _metrics()),
        "conditions.md": ("operator/watchbill/api/conditions.py", _conditions()),
        "events.md": ("operator/watchbill/event_causes.py", _events()),
    }
    return {name: HEADER.format(source=f"`{source}`") + text for name, (source, text) in pages.items()}


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# ---------------------------------------------------------------- settings


def _settings() -> str:
    common, of_workers = Settings.model_fields, WorkerSettings.model_fields
    own = {name: field for name, field in of_workers.items() if name not in common}
    return (
        "# Settings\n\nA process reads its settings from its environment once, when it starts. A value that can't be "
        "used is refused, by the name of its variable. Options of the command line win over settings.\n\n"
        + _table(("variable", "default", "meaning"), _variables(common))
        + "\n## Of `python -m watchbill.worker`, a pod's worker\n\n"
        + _table(("variable", "default", "meaning"), _variables(own))
    )


def _variables(fields: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for name, field in fields.items():
        default = "required" if field.is_required() else _code(field.default)
        yield f"`{variable_of(WorkerSettings, name)}`", default, field.description or ""


def _code(value: object) -> str:
    return "" if value in (None, "") else f"`{value}`"


# ---------------------------------------------------------------- resources


def _resource(definition: Mapping[str, Any]) -> str:
    kind = definition["spec"]["names"]["kind"]
    version = definition["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    parts = [
        f"# {kind}\n\n`apiVersion: {definition['spec']['group']}/{version['name']}`, `kind: {kind}`. "
        f"{schema['description']} A field that isn't required may be left out.\n"
    ]
    for name in ("spec", "status"):
        if found := schema["properties"].get(name):
            parts.append(f"\n## {name}\n\n{found.get('description', '')}\n\n")
            parts.append(_table(("field", "type", "default", "meaning"), _fields(found, "")))
    return "".join(parts)


def _fields(schema: Mapping[str, Any], path: str) -> Iterator[Sequence[str]]:
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        inner, many = field, ""
        while inner.get("type") == "array":
            inner, many = inner["items"], f"{many}[]"
        default = "required" if name in required else ""
        if "default" in field and not inner.get("properties"):
            default = f"`{json.dumps(field['default'])}`"
        yield (
            f"`{path}{name}`",
            f"{_type(inner)}{many}",
            default,
            " ".join([field.get("description", ""), *_bounds(field)]),
        )
        yield from _fields(inner, f"{path}{name}{many}.")


def _type(field: Mapping[str, Any]) -> str:
    if options := field.get("enum"):
        return ", ".join(f"`{option}`" for option in options)
    if of := field.get("additionalProperties"):
        return f"map of {of.get('type', 'any')}"
    return str(field.get("format") or field.get("type", "any"))


def _bounds(field: Mapping[str, Any]) -> Iterator[str]:
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None and high is not None:
        yield f"From {low} to {high}."
    elif low is not None or high is not None:
        yield f"At least {low}." if high is None else f"At most {high}."
    for key, what in (("maxLength", "characters"), ("maxItems", "items"), ("maxProperties", "entries")):
        if key in field:
            yield f"At most {field[key]} {what}."


# ---------------------------------------------------------------- the command line, metrics, events


def _commands() -> str:
    command = [sys.executable, "-m", "typer", "watchbill.cli.app", "utils", "docs", "--name", "watchbill"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip() + "\n"


def _metrics() -> str:
    suffixes = {"counter": "_total", "info": "_info"}
    rows = [(family.name, family.type, (*metrics.OF_CREW, *family.labels), family.help) for family in queues.FAMILIES]
    for declared in vars(metrics).values():
        if isinstance(declared, Counter | Gauge | Histogram | Info):
            for found in declared.describe():
                name = found.name + suffixes.get(found.type, "")
                rows.append((name, found.type, tuple(declared._labelnames), found.documentation))
    table = ((f"`{name}`", kind, ", ".join(labels), text) for name, kind, labels, text in rows)
    return (
        "# Metrics\n\nEvery metric that a process serves at `/metrics`. [metrics.md](../metrics.md) says how to read "
        "them.\n\n" + _table(("metric", "type", "labels", "help"), table)
    )


def _conditions() -> str:
    types = [(f"`{name}`", meaning) for name, meaning in _members("ConditionType")]
    reasons = []
    for name, meaning in _members("Reason"):
        of, _, said = meaning.partition(": ")
        reasons.append((f"`{name}`", of, said[:1].upper() + said[1:]))
    return (
        "# Conditions\n\nEvery condition of a Crew or Heartbeat, and every reason. `Ready` is always there; the others "
        "only while they are `True`. [gitops.md](../gitops.md) says what tools make of them.\n\n"
        + _table(("condition", "meaning"), types)
        + "\n"
        + _table(("reason", "of", "meaning"), reasons)
    )


def _members(enumeration: str) -> Iterator[tuple[str, str]]:
    """The value and the text of each member of an enumeration in api/conditions.py."""
    tree = ast.parse(Path(conditions.__file__).read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == enumeration)
    for member, text in itertools.pairwise(found.body):
        if isinstance(member, ast.Assign):
            yield ast.literal_eval(member.value), " ".join(ast.literal_eval(text.value).split())  # type: ignore[attr-defined]


def _events() -> str:
    table = (
        (f"`{kind}`", cause.by, " ".join(cause.when.split()), ", ".join(["crew", *cause.streams]))
        for kind, cause in CAUSES.items()
    )
    return (
        "# Events\n\nEvery type of event that Watchbill emits. Each is written in the script that makes the change. "
        "An event is on the streams of what it names: only a step of a run has a run. [events.md](../events.md) says "
        "how to read them, and how to emit events of your own, of these types and of all others.\n\n"
        + _table(("event", "emitted by", "when", "streams"), table)
    )


def main() -> int:
    """Writes the pages, or with --check compares them. Returns 1 when they differ from the code."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not up to date")
    check = parser.parse_args().check
    stale = 0
    for name, text in render().items():
        path = FOLDER / name
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"docs/reference/{name}: not what the code says. Run: make reference\n")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
