"""Manifests that the API server and `parse` must both refuse, with the field that each of them must name."""

from __future__ import annotations

from typing import Any, Final

from e2e.control_plane.manifests import (
    ABSENT,
    TEAM,
    Refused,
    as_yaml,
    changed,
    crew,
    flow,
    heartbeat,
    numbers,
    scheduled,
)

_A: Final = "spec.agents[0]."
_R: Final = "spec.flowRelations"
_NOT_USABLE: Final = "this name is not usable"

# A text whose characters are within the limit, and whose bytes are one too many.
_BYTES: Final = "the text has more than {} bytes"


def _fields(kind: Any, *cases: tuple[str, Any]) -> list[Refused]:
    """One Refused per field and value."""
    return [Refused(f"{kind.__name__} {field}: {_short(value)}", kind({field: value}), field) for field, value in cases]


def _short(value: Any) -> str:
    if value is ABSENT:
        return "left out"
    shown = repr(value)
    return shown if len(shown) <= 30 else f"{type(value).__name__} of {len(value)}, {shown[:9]}…"


STRUCTURE: Final = [
    *_fields(
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
        (f"{_A}name", ABSENT),
        (f"{_A}name", 5),
        ("spec.executionMode", "serial"),
        ("spec.executionMode", "Flow"),
        ("spec.executionMode", ""),
        ("spec.executionMode", True),
        ("spec.workers", 3),
        ("spec.tasks", []),
    ),
    *_fields(
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
    *_fields(
        crew,
        ("replicas", 1),
        ("spec.oops", 1),
        ("spec.executionmode", "flow"),
        ("spec.tasks.timeout", 5),
        ("spec.workers.min", 5),
        (f"{_A}modle", "m"),
        (f"{_A}systemprompt", "x"),
    ),
    *_fields(heartbeat, ("spec.prioritty", "LOW"), ("spec.crewRef.namespace", "other"), ("spec.resultTTLSeconds", 5)),
    Refused(
        "a field that relations have not",
        changed(flow((["a"], ["b"])), {f"{_R}[0].when": "always"}),
        f"{_R}[0].when",
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
        Refused(f"a crew called {_short(name)}", crew(name=name), "metadata.name", says=says)
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
            ("blog.team", _NOT_USABLE),
            ("a" * 53, _NOT_USABLE),
            ("id", "is reserved"),
            ("list", "is reserved"),
            ("tenants", "is reserved"),
        )
    ),
    *(
        Refused(f"a heartbeat called {_short(name)}", heartbeat(name=name), "metadata.name", says=_NOT_USABLE)
        for name in ("every.morning", "a" * 53)
    ),
    *_fields(
        crew,
        *((f"{_A}name", name) for name in ("", "a b", "-a", ".a", "a/b", "{a}", "é", "a\n", "a" * 64)),
    ),
    *_fields(
        heartbeat,
        *(("spec.agent", name) for name in ("", "a b", "_a", "a\n", "a" * 64)),
        *(("spec.crewRef.name", name) for name in ("", "Blog", "blog.team", "a-", "a\n", "a" * 53)),
    ),
    Refused(
        "two agents of one name",
        crew({"spec.agents[2]": {"name": "researcher", "class": "EchoAgent"}}),
        "spec.agents[2].name",
        server="spec.agents[2]",
        says='Duplicate value: {"name":"researcher"}',
    ),
]

_LABELS: Final = "metadata.labels"
_ANNOTATIONS: Final = "metadata.annotations"

METADATA: Final = [
    *_fields(
        crew,
        ("metadata.lables", {}),
        ("metadata.Name", "x"),
        ("metadata.clusterName", "x"),
        ("metadata.resource_version", "1"),
        (_ANNOTATIONS, {"why": "x" * 262_142}),
        (_ANNOTATIONS, {"why": "é" * 65_536, "reason": "é" * 65_536}),
    ),
    *(
        Refused(f"{field}: {_short(value)}", crew({field: value}), field, server=f"ObjectMeta.{field.split('.')[1]}")
        for field, value in (
            (_LABELS, []),
            (f"{_LABELS}.team", 5),
            (f"{_LABELS}.team", True),
            (_ANNOTATIONS, "x"),
            (f"{_ANNOTATIONS}.why", 5),
            ("metadata.namespace", 5),
        )
    ),
    *(
        Refused(
            f"the label {_short(key)}: {_short(value)}", crew(labels={key: value}), f"{_LABELS}.{key}", server=_LABELS
        )
        for key, value in (
            *(("team", value) for value in ("a b", "-a", "a-", ".a", "é", "a\n", "a" * 64)),
            *((key, "x") for key in ("", "a b", "-a", "a_", "é", "a\n", "a" * 64)),
            *((key, "x") for key in ("A/b", "a_b/c", "a..b/c", "a-/c", "a/b/c", "/a", "a/", "p" * 254 + "/a")),
        )
    ),
    *(
        Refused(
            f"the annotation {_short(key)}", crew(annotations={key: "x"}), f"{_ANNOTATIONS}.{key}", server=_ANNOTATIONS
        )
        for key in ("", "a b", "é", "a" * 64, "a_b/c", "/a")
    ),
]

TEXTS: Final = [
    *_fields(
        crew,
        ("spec.description", 5),
        ("spec.description", True),
        ("spec.description", "😀" * 4097),
        ("spec.model", "m" * 254),
        (f"{_A}class", "é" * 254),
        (f"{_A}model", "m" * 254),
        (f"{_A}baseURL", "localhost:8000"),
        (f"{_A}baseURL", "HTTP://localhost"),
        (f"{_A}baseURL", " http://localhost"),
        (f"{_A}baseURL", "http://localhost\n"),
        (f"{_A}baseURL", "http://" + "x" * 2042),
        (f"{_A}systemPrompt", "x" * 131_073),
        (f"{_A}prompt", "x" * 131_073),
    ),
    *_fields(heartbeat, ("spec.prompt", "x" * 262_145), ("spec.metadata.k", "é" * 4097)),
    *(
        Refused(f"{field}: {_short(text)}", kind({field: text}), field, says=_BYTES.format(limit))
        for kind, field, limit in (
            (crew, f"{_A}systemPrompt", 131_072),
            (crew, f"{_A}prompt", 131_072),
            (heartbeat, "spec.prompt", 262_144),
        )
        for text in ("é" * (limit // 2) + "x", "😀" * (limit // 4) + "x")
    ),
    Refused("a description that is y", as_yaml(crew()) + "  description: y\n", "spec.description"),
    Refused(
        "an agent with neither class nor model",
        crew({f"{_A}class": ABSENT}),
        f"{_A}class",
        server="spec.agents",
        says="neither a class nor a model",
    ),
    Refused(
        "an agent whose class and model are empty, and the crew's too",
        crew({"spec.model": "", "spec.agents[1].class": "", "spec.agents[1].model": ""}),
        "spec.agents[1].class",
        server="spec.agents",
        says="neither a class nor a model",
    ),
    *(
        Refused(
            f"an agent of class {name} without a model",
            crew({f"{_A}class": name}),
            f"{_A}model",
            server="spec.agents",
            says="is an LLMAgent and has no model",
        )
        for name in ("LLMAgent", "watchbill.agents.llm:LLMAgent")
    ),
    *(
        Refused(
            f"a key in the address {_short(url)}", crew({f"{_A}baseURL": url}), f"{_A}baseURL", says="user or password"
        )
        for url in ("https://me:secret@127.0.0.1/v1", "http://key@x", "http://@x", "http://a:b@c@d?e")
    ),
]

LISTS: Final = [
    *(
        Refused(f"{field}: {_short(value)}", crew({field: value}), place)
        for field, value, place in (
            (f"{_A}tools", "search", f"{_A}tools"),
            (f"{_A}tools", [5], f"{_A}tools[0]"),
            (f"{_A}tools", [None], f"{_A}tools[0]"),
            (f"{_A}tools", ["a", ""], f"{_A}tools[1]"),
            (f"{_A}tools", ["t" * 254], f"{_A}tools[0]"),
            (f"{_A}tools", [str(i) for i in range(101)], f"{_A}tools"),
            ("spec.sharedTools", {}, "spec.sharedTools"),
            ("spec.sharedTools", [""], "spec.sharedTools[0]"),
            ("spec.sharedTools", ["t" * 254], "spec.sharedTools[0]"),
            ("spec.sharedTools", [str(i) for i in range(101)], "spec.sharedTools"),
            (f"{_A}config", [], f"{_A}config"),
            (f"{_A}config", "x", f"{_A}config"),
            (f"{_A}config", {f"k{i}": i for i in range(65)}, f"{_A}config"),
        )
    ),
    Refused("a tool listed twice", crew({f"{_A}tools": ["a", "b", "a"]}), f"{_A}tools", server=f"{_A}tools[2]"),
    Refused(
        "a shared tool listed twice",
        crew({"spec.sharedTools": ["a", "a"]}),
        "spec.sharedTools",
        server="spec.sharedTools[1]",
    ),
    Refused("63 entries of metadata", heartbeat({"spec.metadata": {f"k{i}": "" for i in range(63)}}), "spec.metadata"),
]

_STRANGER: Final = "cite an agent that is not in this crew"
_OTHER_MODE: Final = "mean something in executionMode flow only"
_ABOVE: Final = "minReplicas is above maxReplicas"

# As the crew of the specification: market_researcher is cited, and no agent.
FORGOTTEN: Final = crew(
    {
        "spec.executionMode": "flow",
        "spec.agents": [
            {"name": name, "class": "EchoAgent"} for name in ("coordinator", "tech_researcher", "synthesizer")
        ],
        "spec.flowRelations": [
            {"source": ["coordinator"], "target": ["tech_researcher", "market_researcher"]},
            {"source": ["tech_researcher"], "target": ["synthesizer"]},
        ],
    },
    name="research-synthesis-team",
)

RELATIONS: Final = [
    Refused("market_researcher", FORGOTTEN, f"{_R}[0].target[1]", server=_R, says=_STRANGER),
    Refused("an unknown source", flow((["a"], ["b"]), (["x"], ["c"])), f"{_R}[1].source[0]", server=_R, says=_STRANGER),
    Refused(
        "what is no agent's name",
        flow((["a"], ["b c"])),
        f"{_R}[0].target[0]",
        server=_R,
        says=r"should match|" + _STRANGER,
    ),
    Refused("a name in another case", flow((["a"], ["B"])), f"{_R}[0].target[0]", server=_R, says=_STRANGER),
    *(
        Refused(
            f"relations in mode {_short(mode)}",
            changed(flow((["a"], ["b"])), {"spec.executionMode": mode}),
            _R,
            says=_OTHER_MODE,
        )
        for mode in ("sequential", "parallel", ABSENT)
    ),
    *(
        Refused(f"{place}: {_short(value)}", changed(flow((["a"], ["b"])), {field: value}), place)
        for field, value, place in (
            (_R, {}, _R),
            (_R, [{"source": ["a"], "target": ["b"]}] * 201, _R),
            (f"{_R}[0]", None, f"{_R}[0]"),
            (f"{_R}[0].source", ABSENT, f"{_R}[0].source"),
            (f"{_R}[0].target", ABSENT, f"{_R}[0].target"),
            (f"{_R}[0].source", [], f"{_R}[0].source"),
            (f"{_R}[0].target", [], f"{_R}[0].target"),
            (f"{_R}[0].source", "a", f"{_R}[0].source"),
            (f"{_R}[0].target", ["b", "b" * 64], f"{_R}[0].target[1]"),
            (f"{_R}[0].source", ["a", 5], f"{_R}[0].source[1]"),
            (f"{_R}[0].source", ["a", "a"], f"{_R}[0].source[1]"),
            (f"{_R}[0].target", ["b", "c", "b"], f"{_R}[0].target[2]"),
        )
    ),
    *(
        Refused(
            f"17 agents as {end}",
            changed(
                flow((["a"], ["b"])),
                {
                    "spec.agents": [{"name": name, "class": "EchoAgent"} for name in ["a", "b", *TEAM[:17]]],
                    f"{_R}[0].{end}": TEAM[:17],
                },
            ),
            f"{_R}[0].{end}",
        )
        for end in ("source", "target")
    ),
]

_W: Final = "spec.workers."
_ONE_SOURCE: Final = "give exactly one of secretRef and configMapRef"

WORKERS: Final = [
    *(
        Refused(f"workers {workers}", crew({"spec.workers": workers}), f"{_W}minReplicas", says=_ABOVE)
        for workers in ({"minReplicas": 9, "maxReplicas": 8}, {"minReplicas": 21})
    ),
    *(
        Refused(f"{_W}{place or field}: {_short(value)}", crew({f"{_W}{field}": value}), f"{_W}{place or field}")
        for field, value, place in (
            ("image", "i" * 513, ""),
            ("image", 5, ""),
            ("autoscale", True, ""),
            ("scaling", "Auto", ""),
            ("scaling", {"mode": "auto"}, "scaling.mode"),
            ("scaling", {"replicas": 5}, "scaling.replicas"),
            ("redisSecretRef", "press-redis", ""),
            ("redisSecretRef", {}, "redisSecretRef.name"),
            ("redisSecretRef", {"name": ""}, "redisSecretRef.name"),
            ("redisSecretRef", {"name": "n" * 254}, "redisSecretRef.name"),
            ("redisSecretRef", {"name": "keys", "key": "url"}, "redisSecretRef.key"),
            ("template", [], ""),
            ("template", {f"k{i}": 1 for i in range(17)}, ""),
            ("envFrom", {}, ""),
            ("envFrom", [{"secretRef": {"name": "keys"}}] * 33, ""),
            ("envFrom", [{"secretRef": {"name": "keys"}, "prefix": "P" * 254}], "envFrom[0].prefix"),
            ("envFrom", [{"secretRef": {"name": ""}}], "envFrom[0].secretRef.name"),
            ("envFrom", [{"configMapRef": {}}], "envFrom[0].configMapRef.name"),
            ("envFrom", [{"secretRef": {"name": "keys", "optional": True}}], "envFrom[0].secretRef.optional"),
        )
    ),
    *(
        Refused(
            f"an environment from {_short(source)}",
            crew({f"{_W}envFrom": [{"secretRef": {"name": "keys"}}, source]}),
            f"{_W}envFrom[1].secretRef",
            server=f"{_W}envFrom[1]",
            says=_ONE_SOURCE,
        )
        for source in ({}, {"prefix": "P"}, {"secretRef": {"name": "a"}, "configMapRef": {"name": "b"}})
    ),
]

_ZONE: Final = "timeZone is not known"

TIMES: Final = [
    Refused(
        "schedule and intervalSeconds",
        heartbeat({"spec.schedule": "0 9 * * *"}),
        "spec.intervalSeconds",
        says="schedule and intervalSeconds are both given",
    ),
    Refused(
        "neither schedule nor intervalSeconds",
        heartbeat({"spec.intervalSeconds": ABSENT}),
        "spec.schedule",
        says="neither schedule nor intervalSeconds is given",
    ),
    Refused("17 inputs", heartbeat({"spec.inputs": {f"i{i}": "" for i in range(17)}}), "spec.inputs"),
    Refused("an input of 32,769 characters", heartbeat({"spec.inputs": {"i": "x" * 32_769}}), "spec.inputs.i"),
    Refused("an input that is a number", heartbeat({"spec.inputs": {"i": 5}}), "spec.inputs.i"),
    Refused("an empty schedule", scheduled(""), "spec.schedule"),
    Refused("a schedule of 257 characters", scheduled("0 9 * * *".ljust(257)), "spec.schedule"),
    Refused("a schedule that is a number", scheduled(5), "spec.schedule"),  # type: ignore[arg-type]
    Refused(
        "a time zone without schedule",
        heartbeat({"spec.timeZone": "Europe/Berlin"}),
        "spec.timeZone",
        says="timeZone means something with schedule only",
    ),
    *(
        Refused(f"time zone {_short(zone)}", scheduled("0 9 * * *", zone), "spec.timeZone", says=_ZONE)
        for zone in ("Nowhere", "utc", "europe/berlin", "Europe", "Z", "Europe/Berlin/", "Europe/Berlim")
    ),
    *(
        Refused(
            f"time zone {_short(zone)}",
            scheduled("0 9 * * *", zone),
            "spec.timeZone",
            says="should match|Too long",
        )
        for zone in ("", "+01:00", "UTC+01:00", "../UTC", "Europe/../UTC", "/UTC", "UTC\n", "a" * 65)
    ),
]

REFUSED: Final = [
    *STRUCTURE,
    *UNKNOWN,
    *NAMES,
    *METADATA,
    *TEXTS,
    *LISTS,
    *RELATIONS,
    *WORKERS,
    *TIMES,
    *numbers.REFUSED,
]
