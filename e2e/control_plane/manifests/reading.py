"""How text is read: where `parse` reads it as the API server does, where it knowingly asks more, and where not yet."""

from __future__ import annotations

import json
from typing import Any, Final

from e2e.control_plane.manifests import ABSENT, Refused, as_yaml, crew, heartbeat

SCALARS: Final = [
    *("yes", "on", "True", "TRUE", "tRue", "Off", "NO", "nO", "false", "~", "null", "Null", "NULL"),
    *("5", "+1", "-0", "0x10", "-0x10", "010", "-010", "00", "08", "0o17", "0o8", "0x", "123456789012345678"),
    *("0.5", ".5", "5.", "1.0", "1e3", "1E3", "1e-3", "+1.5e3", "1.e3", ".e3", "-0.0", "1e", "1.2.3"),
    *("12:30", "190:20:30", "2026-01-02", "2026-01-02T03:04:05Z", "a:b", "1-2", "+", ".", "_1", "v1.10"),
    *("!!str 5", '!!int "5"', "!!float 5", "!!bool yes", '"\\u00e9"', "'it''s'"),
]
"""Written without quotes as a value: both read the same from it."""

DISPUTED_SCALARS: Final = {
    "y": "true there, text here",
    "n": "false there, text here",
    "1_000": "a number there, text here",
    "0b11": "a number there, text here",
    "0X1F": "a number there, text here",
    ".inf": "refused there, text here",
    ".nan": "refused there, text here",
    "1e400": "text there, infinity here, which is not JSON",
}

UNREADABLE: Final = ["[1, 2", "{a: b", "*anchor", "@x", "`x`", "%x", "a: b", "- a", "? a", '"a']
"""As a value: YAML that nobody reads."""

STRICTER: Final = [
    *(
        Refused(f"{field} with nothing after it", kind({field: None}), field)
        for kind, field in (
            (crew, "spec.description"),
            (crew, "spec.executionMode"),
            (crew, "spec.workers"),
            (crew, "spec.workers.minReplicas"),
            (crew, "spec.flowRelations"),
            (crew, "spec.agents[0].tools"),
            (crew, "spec.agents[0].config"),
            (heartbeat, "spec.prompt"),
            (heartbeat, "spec.timeZone"),
            (heartbeat, "spec.metadata"),
            (heartbeat, "spec.metadata.team"),
        )
    ),
    Refused("a whole number with a point", crew({"spec.maxParallelTasks": 5.0}), "spec.maxParallelTasks"),
    Refused("a name to be made up", crew(name=ABSENT, generateName="blog-"), "metadata.name"),
    Refused("a tag", as_yaml(crew()) + "  description: !mine x\n", ""),
]
"""The server takes these, and a null for the default. Whoever wrote that meant something else, so `parse` asks."""

DISPUTED: Final[list[tuple[Refused, str]]] = [
    (Refused("a field that metadata has not", crew({"metadata.lables": {}}), "metadata.lables"), "ignored here"),
    (
        Refused("a label's value of a wrong form", crew(labels={"team": "a b"}), "metadata.labels"),
        "taken here as it is",
    ),
    (
        Refused("an annotation's name of a wrong form", crew(annotations={"a b": "x"}), "metadata.annotations"),
        "taken here as it is",
    ),
    (
        Refused("a description that is y", as_yaml(crew()) + "  description: y\n", "spec.description"),
        "text here",
    ),
]
"""Refused by the server only: what `watchbill run` takes would not go onto a cluster. With what happens here."""


DISPUTED_JSON: Final = json.dumps(crew({"spec.description": "😀"}))
"""As programs write JSON: what is beyond U+FFFF is a pair of escapes, which PyYAML reads as two half characters."""


def config_of(scalar: str) -> str:
    """A Crew with this in its YAML as a value that may be anything."""
    return as_yaml(crew({"spec.agents": [{"name": "a", "class": "EchoAgent"}]})) + f"    config:\n      x: {scalar}\n"


def read_config(resource: dict[str, Any]) -> Any:
    return resource["spec"]["agents"][0]["config"]["x"]
