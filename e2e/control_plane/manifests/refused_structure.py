"""Manifests that both must refuse for their structure, an unknown field, a name or their metadata."""

from __future__ import annotations

from typing import Any, Final

from e2e.control_plane.manifests import (
    ABSENT,
    Refused,
    as_yaml,
    changed,
    crew,
    flow,
    heartbeat,
)

AGENT: Final = "spec.agents[0]."
RELATIONS_AT: Final = "spec.flowRelations"
NOT_USABLE: Final = "this name is not usable"

# A text whose characters are within the limit, and whose bytes are one too many.
BYTES: Final = "the text has more than {} bytes"


def each(kind: Any, *cases: tuple[str, Any]) -> list[Refused]:
    """One Refused per field and value."""
    return [Refused(f"{kind.__name__} {field}: {short(value)}", kind({field: value}), field) for field, value in cases]


def short(value: Any) -> str:
    if value is ABSENT:
        return "left out"
    shown = repr(value)
    return shown if len(shown) <= 30 else f"{type(value).__name__} of {len(value)}, {shown[:9]}…"


STRUCTURE: Final = [
    *each(
        crew,
        ("spec", ABSENT),
        ("spec", None),
        ("spec", []),
        ("spec.agents", ABSENT),
        ("spec.agents", None),
        ("spec.agents", []),
        ("spec.agents", {}),
        ("spec.agents[2]", None),
        ("spec.agents[2]", "researcher"),
        ("spec.agents", [{"name": f"a{i}", "class": "EchoAgent"} for i in range(101)]),
        (f"{AGENT}name", ABSENT),
        (f"{AGENT}name", 5),
        ("spec.executionMode", "serial"),
        ("spec.executionMode", "Flow"),
        ("spec.executionMode", ""),
        ("spec.executionMode", True),
        ("spec.workers", 3),
        ("spec.tasks", []),
    ),
    *each(
        heartbeat,
        ("spec", ABSENT),
        ("spec.crewRef", ABSENT),
        ("spec.crewRef", "blog-team"),
        ("spec.crewRef.name", ABSENT),
        ("spec.priority", "low"),
        ("spec.priority", ""),
        ("spec.priority", 1),
        ("spec.suspend", "no"),
        ("spec.suspend", 1),
        ("spec.metadata", []),
        ("spec.metadata.team", 5),
        ("spec.metadata.team", ["press"]),
    ),
]

UNKNOWN: Final = [
    *each(
        crew,
        ("replicas", 1),
        ("spec.oops", 1),
        ("spec.executionmode", "flow"),
        ("spec.tasks.timeout", 5),
        ("spec.workers.min", 5),
        (f"{AGENT}modle", "m"),
        (f"{AGENT}systemprompt", "x"),
    ),
    *each(heartbeat, ("spec.prioritty", "LOW"), ("spec.crewRef.namespace", "other"), ("spec.resultTTLSeconds", 5)),
    Refused(
        "a field that relations have not",
        changed(flow((["a"], ["b"])), {f"{RELATIONS_AT}[0].when": "always"}),
        f"{RELATIONS_AT}[0].when",
    ),
    Refused(
        "a key given twice",
        as_yaml(crew({"spec.model": "m"})) + "  model: n\n",
        "spec.model",
        server="model",
        says='key "model" already set in map',
    ),
]

NAMES: Final = [
    *(
        Refused(f"a crew called {short(name)}", crew(name=name), "metadata.name", says=says)
        for name, says in (
            ("Blog", "RFC 1123"),
            ("blog_team", "RFC 1123"),
            ("-a", "RFC 1123"),
            ("a-", "RFC 1123"),
            ("a\n", "RFC 1123"),
            ("é", "RFC 1123"),
            ("a" * 254, "no more than 253"),
            ("", "name or generateName is required"),
            (ABSENT, "name or generateName is required"),
            ("blog.team", NOT_USABLE),
            ("a" * 53, NOT_USABLE),
            ("id", "is reserved"),
            ("list", "is reserved"),
            ("tenants", "is reserved"),
        )
    ),
    *(
        Refused(f"a heartbeat called {short(name)}", heartbeat(name=name), "metadata.name", says=NOT_USABLE)
        for name in ("every.morning", "a" * 53)
    ),
    *each(
        crew,
        *((f"{AGENT}name", name) for name in ("", "a b", "-a", ".a", "a/b", "{a}", "é", "a\n", "a" * 64)),
    ),
    *each(
        heartbeat,
        *((field, name) for field in ("spec.agent", "spec.role") for name in ("", "a b", "_a", "a\n", "a" * 64)),
        *(("spec.crewRef.name", name) for name in ("", "Blog", "blog.team", "a-", "a\n", "a" * 53)),
    ),
    Refused(
        "a heartbeat of an agent and a role",
        heartbeat({"spec.agent": "writer", "spec.role": "reviewer"}),
        "spec.role",
        says="agent and role are both given",
    ),
    Refused(
        "two agents of one name",
        crew({"spec.agents[2]": {"name": "researcher", "class": "EchoAgent"}}),
        "spec.agents[2].name",
        server="spec.agents[2]",
        says='Duplicate value: {"name":"researcher"}',
    ),
]

LABELS: Final = "metadata.labels"
ANNOTATIONS: Final = "metadata.annotations"

METADATA: Final = [
    *each(
        crew,
        ("metadata.lables", {}),
        ("metadata.Name", "x"),
        ("metadata.clusterName", "x"),
        ("metadata.resource_version", "1"),
        (ANNOTATIONS, {"why": "x" * 262_142}),
        (ANNOTATIONS, {"why": "é" * 65_536, "reason": "é" * 65_536}),
    ),
    *(
        Refused(f"{field}: {short(value)}", crew({field: value}), field, server=f"ObjectMeta.{field.split('.')[1]}")
        for field, value in (
            (LABELS, []),
            (f"{LABELS}.team", 5),
            (f"{LABELS}.team", True),
            (ANNOTATIONS, "x"),
            (f"{ANNOTATIONS}.why", 5),
            ("metadata.namespace", 5),
        )
    ),
    *(
        Refused(f"the label {short(key)}: {short(value)}", crew(labels={key: value}), f"{LABELS}.{key}", server=LABELS)
        for key, value in (
            *(("team", value) for value in ("a b", "-a", "a-", ".a", "é", "a\n", "a" * 64)),
            *((key, "x") for key in ("", "a b", "-a", "a_", "é", "a\n", "a" * 64)),
            *((key, "x") for key in ("A/b", "a_b/c", "a..b/c", "a-/c", "a/b/c", "/a", "a/", "p" * 254 + "/a")),
        )
    ),
    *(
        Refused(
            f"the annotation {short(key)}", crew(annotations={key: "x"}), f"{ANNOTATIONS}.{key}", server=ANNOTATIONS
        )
        for key in ("", "a b", "é", "a" * 64, "a_b/c", "/a")
    ),
]
