"""Manifests made by chance from a seed: each with one fault, and what must come of it.

Most break the schema of the CRD, at any field that it has; those the API server refuses. The others it takes, and the
operator has to say what is wrong.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from e2e.cluster import recipe
from e2e.control_plane.manifests import ABSENT, accepted, changed, crew, flow, heartbeat, scheduled

REFUSED: Final = "refused"
READY: Final = "Ready"
_CREW: Final = "good-0"
"""The crew that heartbeats name."""


@dataclass(frozen=True)
class Generated:
    """A manifest, the outcome that it must have, and a text that the message must have."""

    manifest: dict[str, Any]
    outcome: str
    """REFUSED by the API server, READY, or the reason for which it is Stalled."""
    named: str
    """The field, or the name in it, that is at fault."""
    strict: bool = True
    """True: the request asks for unknown fields to be refused, as kubectl does."""


def bad(seed: int, count: int) -> list[Generated]:
    """`count` manifests of which none can run; one in eight is for the operator to find out."""
    chance = random.Random(seed)
    broken = _Broken()
    return [_stalled(chance, i) if i % 8 == 0 else broken.one(chance) for i in range(count)]


def unchecked(seed: int, count: int) -> list[Generated]:
    """Crews and heartbeats that are good: their unknown field is dropped, since the request asks for no validation."""
    chance = random.Random(seed)
    made = []
    for i in range(count):
        field = {f"spec.{_word(chance)}X": chance.choice(_VALUES)}
        made.append(
            crew(field, name=f"dropped-{i}")
            if chance.random() < 0.5
            else heartbeat({**field, "spec.crewRef.name": _CREW}, name=f"dropped-{i}")
        )
    return [Generated(manifest, READY, "", strict=False) for manifest in made]


# ── what the schema refuses

_VALUES: Final[tuple[Any, ...]] = ("x", "😀", 5, -1, 1.5, True, [], {}, [None], {"a": [1]}, "x" * 5000)
_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}
_TEXTS: Final = ("", " ", "é", "😀", "a b", "-a", "\n", "a\n", "../a", "{a}", "a\u202eb", "\u0000", "A" * 70)
_PODS: Final = {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 1}]}
_SECRET: Final = {"secretKeyRef": {"name": "keys", "key": "k"}}
_DELIVERY: Final = [
    {"name": "l", "log": {"level": "INFO"}, "outcomes": ["Failure"]},
    {"name": "w", "webhook": {"url": "https://127.0.0.1/x", "signingKeyFrom": _SECRET}},
    {"name": "t", "telegram": {"botTokenFrom": _SECRET, "chatId": "@x"}},
    {"name": "m", "email": {"to": ["a@example.org"], "subject": "s"}},
    {"name": "r", "redisStream": {"stream": "s", "maxLength": 5}},
]


class _Broken:
    """Breaks a crew and a heartbeat that have every field."""

    def __init__(self) -> None:
        scaling = {"spec.workers.scaling": {"mode": "External", "up": _PODS, "down": _PODS}}
        full = (
            changed(accepted.CREWS["every field"], {**scaling, "spec.delivery": _DELIVERY}),
            changed(accepted.HEARTBEATS["every field"], {"spec.deliver": ["l"], "spec.delivery": _DELIVERY}),
        )
        self._fields = []
        for manifest in json.loads(json.dumps(full)):  # no part is there twice
            folder = recipe.HERE.parent.parent / "crds"
            (file,) = folder.glob(f"*{manifest['kind'].lower()}s.yaml")
            crd = yaml.safe_load(file.read_text())
            schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
            self._fields += [(manifest, *field) for field in _walk("spec", schema, manifest["spec"])]

    def one(self, chance: random.Random) -> Generated:
        """Every field is as likely as any other, and so is every way to break it."""
        while True:
            manifest, path, schema, value = chance.choice(self._fields)
            faults = list(_faults(path, schema, value, chance))
            if chance.random() < 0.03:
                faults = [({"metadata.name": chance.choice([*_TEXTS, "id.x", "a" * 53])}, "metadata.name")]
            if faults:
                changes, named = chance.choice(faults)
                unknown = named.endswith("X")
                return Generated(changed(manifest, changes), REFUSED, named, strict=unknown or chance.random() < 0.5)


def _walk(path: str, schema: dict[str, Any], value: Any) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """(path, schema, value) of each field; the value is None where it has none."""
    yield path, schema, value
    for name, child in schema.get("properties", {}).items():
        yield from _walk(f"{path}.{name}", child, (value or {}).get(name))
    if isinstance(value, list):
        for i, entry in enumerate(value):
            yield from _walk(f"{path}[{i}]", schema["items"], entry)


def _faults(
    path: str, schema: dict[str, Any], value: Any, chance: random.Random
) -> Iterator[tuple[dict[str, Any], str]]:
    """(changes, field to be named) for each way in which this field can be broken."""
    kind = schema["type"]
    wrong = [v for v in _VALUES if not isinstance(v, _TYPES[kind]) or (kind in ("integer", "number") and v is True)]
    yield {path: chance.choice(wrong)}, path
    for bound, beyond in (("minimum", -1), ("maximum", 1)):
        if bound in schema:
            yield {path: schema[bound] + beyond * chance.choice([1, 1000, 2**62, 10**30])}, path
    if "enum" in schema:
        yield {path: chance.choice([*_TEXTS, schema["enum"][0].swapcase()])}, path
    if "maxLength" in schema:
        yield {path: chance.choice("xé") * (schema["maxLength"] + 1)}, path
    if "minLength" in schema:
        yield {path: ""}, path
    if "maxProperties" in schema:
        yield {path: {f"k{i}": "x" for i in range(schema["maxProperties"] + 1)}}, path
    if texts := [t for t in _TEXTS if "pattern" in schema and not re.search(_go(schema["pattern"]), t)]:
        yield {path: chance.choice(texts)}, path
    if kind == "array":
        if "minItems" in schema:
            yield {path: []}, path
        if value and schema.get("x-kubernetes-list-type") in ("set", "map"):
            yield {path: [*value, value[0]]}, f"{path}[{len(value)}]"
        if value:
            yield {path: value[:1] * (schema["maxItems"] + 1)}, path
    for name in schema.get("required", ()) if value else ():
        yield {f"{path}.{name}": ABSENT}, f"{path}.{name}"
    if "properties" in schema:
        field = f"{path}.{_word(chance)}X"
        yield {field: chance.choice(_VALUES)}, field


def _go(pattern: str) -> str:
    """A pattern of Go's, in which $ is the end of the text only."""
    return re.sub(r"\$$", r"\\Z", pattern)


def _word(chance: random.Random) -> str:
    return "".join(chance.choices("abcdefghij", k=chance.randint(3, 12)))


# ── what only the operator can find


def _stalled(chance: random.Random, number: int) -> Generated:
    way = chance.choice([_circle, _prompt, _reference, _template, _template, _schedule, _schedule, _beat])
    manifest, reason, named = way(chance)
    return Generated(changed(manifest, {"metadata.name": f"bad-{number}"}), reason, named)


_Fault = tuple[dict[str, Any], str, str]


def _circle(chance: random.Random) -> _Fault:
    agents = "abcdefgh"
    ring = chance.sample(agents, chance.randint(1, 8))
    around = list(zip(ring, [*ring[1:], ring[0]], strict=True))
    others = [sorted(chance.sample(agents, 2)) for _ in range(chance.randint(0, 5))]
    pairs = [*around, *others]
    chance.shuffle(pairs)
    return flow(*(([a], [b]) for a, b in pairs), agents=agents), "FlowCycle", "flowRelations"


def _prompt(chance: random.Random) -> _Fault:
    cited = chance.choice(
        [f"{{steps.{_word(chance)}}}", "{steps.writer}", "{input.x}", "{steps}", "{now}", "{input!r}"]
    )
    return crew({"spec.agents[0].prompt": f"é {cited} 😀"}), "InvalidPrompt", cited


def _reference(chance: random.Random) -> _Fault:
    name = f"absent-{_word(chance)}"
    volume = {"name": "v", chance.choice(["secret", "configMap"]): {}}
    volume["secret" if "secret" in volume else "configMap"] = (
        {"secretName": name} if "secret" in volume else {"name": name}
    )
    reason, workers = chance.choice(
        [
            ("RedisSecretMissing", {"redisSecretRef": {"name": name}}),
            ("ReferenceMissing", {"envFrom": [{chance.choice(["secretRef", "configMapRef"]): {"name": name}}]}),
            ("ReferenceMissing", {"template": {"spec": {"volumes": [volume]}}}),
        ]
    )
    return crew({"spec.workers": workers}), reason, name


_POD: Final = {"name": "worker"}
_OBJECTS: Final = ("affinity", "securityContext", "dnsConfig")
_LISTS: Final = ("containers", "initContainers", "volumes", "tolerations", "imagePullSecrets", "hostAliases")
_OF_CONTAINER: Final = ("env", "ports", "resources", "volumeMounts", "securityContext", "livenessProbe")


def _template(chance: random.Random) -> _Fault:
    """A field of the wrong type, an unknown one, or a value that a pod can't have."""
    odd = chance.choice(["text", 5, True, "😀"])
    field = chance.choice([*_OBJECTS, *_LISTS])
    own = chance.choice(_OF_CONTAINER)
    unknown = f"{_word(chance)}X"
    spec, named = chance.choice(
        [
            ({field: odd}, field),
            ({field: [odd] if field in _LISTS else [{}]}, field),
            ({unknown: odd}, unknown),
            ({"containers": [{**_POD, own: odd}]}, own),
            ({"containers": [{**_POD, unknown: odd}]}, unknown),
            (
                {"containers": [{**_POD, "ports": [{"containerPort": chance.choice([0, -1, 65_536, 2**40])}]}]},
                "ontainerPort",
            ),
            ({"containers": [{**_POD, "imagePullPolicy": "Sometimes"}]}, "imagePullPolicy"),
            ({"containers": [{**_POD, "resources": {"limits": {"memory": "much é"}}}]}, ""),
            ({"containers": [{**_POD, "env": [{"name": chance.choice(["", "a=b"]), "value": "x"}]}]}, "env"),
            ({"volumes": [{"name": "é", "emptyDir": {}}]}, "volumes"),
            ({"nodeSelector": {"a b": "x"}}, "nodeSelector"),
        ]
    )
    template, named = chance.choice(
        [
            *[({"spec": spec}, named)] * 8,
            ({"spec": odd}, "spec"),
            ({"metadata": odd}, "metadata"),
            ({"metadata": {"labels": {"a b": "x"}}}, "labels"),
            ({"metadata": {"labels": odd}}, "labels"),
            ({"metadata": {"annotations": [odd]}}, "annotations"),
            ({unknown: {}}, unknown),
        ]
    )
    return crew({"spec.workers": {"template": template}}), "TemplateInvalid", named


def _schedule(chance: random.Random) -> _Fault:
    if chance.random() < 0.1:
        return changed(scheduled("0 9 * * *", "Local"), {"spec.crewRef.name": _CREW}), "InvalidSchedule", "timeZone"
    fields = ["0", "9", "*", "*", "*"]
    at = chance.randrange(5)
    fields[at] = chance.choice(["99", "-1", "a", "é", "1-", "*/0", "5-1", "1,,2", "😀", "1/1/1", "9" * 50])
    if chance.random() < 0.3:
        fields = chance.choices(["*", "0", "1"], k=chance.choice([1, 2, 3, 4, 6, 7, 40]))
    text = chance.choice([" ".join(fields)] * 6 + ["@every 5m", "@reboot", "0 0 30 2 *", "0 0 31 2,4,6 *"])
    return changed(scheduled(text), {"spec.crewRef.name": _CREW}), "InvalidSchedule", "schedule"


def _beat(chance: random.Random) -> _Fault:
    name = _word(chance)
    if chance.random() < 0.5:
        return heartbeat({"spec.crewRef.name": f"absent-{name}"}), "CrewNotFound", name
    return heartbeat({"spec.crewRef.name": _CREW, "spec.deliver": [name]}), "InvalidSpec", name
