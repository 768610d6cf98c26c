"""Manifests as data, good and bad. Nothing here is taken from the models: limits are written down a second time."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

ABSENT: Final = object()
"""A value in changes for a field that is left out."""

_CREW: Final = """
apiVersion: watchbill.dev/v1alpha1
kind: Crew
metadata: {name: blog-team}
spec:
  agents:
  - {name: researcher, class: EchoAgent}
  - {name: writer, class: EchoAgent}
"""

_HEARTBEAT: Final = """
apiVersion: watchbill.dev/v1alpha1
kind: Heartbeat
metadata: {name: morning}
spec:
  crewRef: {name: blog-team}
  intervalSeconds: 60
"""


@dataclass(frozen=True)
class Refused:
    """A manifest that must be refused, and how."""

    what: str
    manifest: dict[str, Any] | str
    field: str
    """The field that `parse` names, and the server too unless `server` says otherwise."""
    server: str = ""
    """The field around it that the server may name instead, where a rule of CEL can't say which entry it is."""
    says: str = ""
    """A pattern of the server's words, in which a rule of ours is to be recognised."""
    problem: str = ""
    """The field that `parse` names where it reads more into it than the server."""


def crew(changes: Mapping[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """A Crew of two agents of a class, with fields changed: `crew({"spec.agents[0].class": ABSENT})`."""
    return changed(yaml.safe_load(_CREW), {**_metadata(metadata), **(changes or {})})


def flow(*relations: tuple[Any, Any], agents: str = "abc") -> dict[str, Any]:
    """A Crew in mode flow whose agents have one letter each."""
    return crew(
        {
            "spec.executionMode": "flow",
            "spec.agents": [{"name": name, "class": "EchoAgent"} for name in agents],
            "spec.flowRelations": [{"source": source, "target": target} for source, target in relations],
        }
    )


def heartbeat(changes: Mapping[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """A Heartbeat every minute, with fields changed."""
    return changed(yaml.safe_load(_HEARTBEAT), {**_metadata(metadata), **(changes or {})})


def scheduled(schedule: str, zone: Any = ABSENT) -> dict[str, Any]:
    """A Heartbeat by a cron expression."""
    changes = {"spec.intervalSeconds": ABSENT, "spec.schedule": schedule}
    return heartbeat(changes if zone is ABSENT else {**changes, "spec.timeZone": zone})


def changed(manifest: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the values at these paths, which are written as problems write them: `spec.agents[0].class`."""
    result = copy.deepcopy(manifest)
    for path, value in changes.items():
        *around, last = (int(i) if i else key for i, key in re.findall(r"\[(\d+)\]|([^.\[]+)", path))
        node: Any = result
        for part in around:
            node = node.setdefault(part, {}) if isinstance(node, dict) else node[part]
        if value is ABSENT:
            del node[last]
        elif isinstance(node, list) and last == len(node):
            node.append(value)
        else:
            node[last] = value
    return result


def as_yaml(manifest: dict[str, Any] | str) -> str:
    """The text for `parse` and, the very same, for the server."""
    return manifest if isinstance(manifest, str) else yaml.safe_dump(manifest, allow_unicode=True, sort_keys=False)


def _metadata(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {f"metadata.{field}": value for field, value in fields.items()}


TEAM: Final = [f"agent-{i:03}-".ljust(63, "x") for i in range(100)]
"""The most agents, with the longest names."""


def largest_crew(prompt_characters: int = 0) -> dict[str, Any]:
    """Every list of relations full, each end with the most agents and the longest names: what CEL has to walk over.

    With `prompt_characters`, each of the 100 agents also has two prompts of that length.
    """
    relations = [{"source": TEAM[i % 34 : i % 34 + 16], "target": TEAM[50 + i % 34 :][:16]} for i in range(200)]
    prompts = {name: "x" * prompt_characters for name in ("systemPrompt", "prompt") if prompt_characters}
    agents = [{"name": name, "class": "EchoAgent", **prompts} for name in TEAM]
    return crew({"spec.executionMode": "flow", "spec.agents": agents, "spec.flowRelations": relations}, name="c" * 52)


def largest_heartbeat() -> dict[str, Any]:
    """Every text and map of it full."""
    changes = {
        "spec.crewRef.name": "c" * 52,
        "spec.agent": "a" * 63,
        "spec.prompt": "é" * (128 * 1024),
        "spec.schedule": ("0,1,2,3,4,5,6,7,8,9,10,11 " + ",".join(str(i) for i in range(24)) + " * * *").ljust(256),
        "spec.metadata": {f"key-{i}": "v" * 4096 for i in range(62)},
        "spec.inputs": {f"input-{i}": "i" * 32_768 for i in range(16)},
    }
    return changed(scheduled("-", "America/Argentina/Buenos_Aires"), {**changes, "metadata.name": "h" * 52})
