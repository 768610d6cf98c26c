"""Texts and their reading: where `parse` reads it as Kubernetes does, and where it knowingly asks more."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from e2e.control_plane.manifests import ABSENT, Refused, as_yaml, crew, heartbeat

SCALARS: Final = [
    *("yes", "on", "True", "TRUE", "tRue", "Off", "NO", "nO", "false", "y", "Y", "n", "N", "yEs", "yy"),
    *("~", "null", "Null", "NULL", "nULL", "~x", '""', "!!str"),
    *(
        "5",
        "+1",
        "-0",
        "0x10",
        "-0x10",
        "0X1F",
        "010",
        "-010",
        "00",
        "08",
        "0o17",
        "0O17",
        "0o8",
        "0x",
        "0b11",
        "-0B11",
    ),
    *("0b2", "0b", "1_000", "1_", "1__0", "-_1", "_1", "0_1", "0x_1", "1_0.5_0", "1e1_0", ".5_0", "._5", ".5__0"),
    *("123456789012345678", "9223372036854775807", "9223372036854775808", "-9223372036854775808"),
    *("-9223372036854775809", "18446744073709551615", "18446744073709551616", "123456789012345678901234567890"),
    *("0xFFFFFFFFFFFFFFFF", "+0xFFFFFFFFFFFFFFFF", "0x1FFFFFFFFFFFFFFFF", "-0xFFFFFFFFFFFFFFFF", "9" * 5000),
    *("01777777777777777777777", "07777777777777777777777777", "0b" + "1" * 64, "0b" + "1" * 65),
    *("0.5", ".5", "5.", "1.0", "3.0", "1e3", "1E3", "1e-3", "+1.5e3", "1.e3", ".e3", "-0.0", "1e", "1.2.3", "-.5"),
    *("1e18", "1e19", "1e20", "1e21", "1e22", "1e400", "-1e400", "1e-400", ".5e400", "0x1p3", "9007199254740993.0"),
    *(".inf", "-.inf", "+.INF", ".Inf", ".iNf", ".nan", ".NaN", "inf", "nan"),
    *("12:30", "190:20:30", "1:30.5", "2026-01-02", "2026-01-02T03:04:05Z", "2001-12-14 21:59:43.10 -5"),
    *("a:b", "1-2", "+", ".", "..", "v1.10", "=", "<<", "x#y", "x #y", "a\tb", "a \tb", "x\t", "\tx", "5\t# c"),
    *("!!str 5", '!!int "5"', "!!float 5", "!!float 0x10", "!!bool yes", "!!null ''"),
    *('"\\u00e9"', "'it''s'", '"\\0\\x07\\N"', '"\\U0001F600"', "'😀'", "'\x85'", "'a\u2028b'", "a\ufeffb"),
    *(
        "{'a':1}",
        "{a:1}",
        "{a}",
        "{a: 1,}",
        "[a, b,]",
        "[a:b]",
        "[a: b]",
        "[http://x]",
        "{<<: {a: 1}}",
        "{'<<': {a: 1}}",
    ),
    *("{<<: [{a: 1}, {b: 2}]}", "{x: <<}", "{2026-01-02: a}", "{12:30: a}", "{=: a}"),
    *("[&x a, *x]", "[&x a, &x b, *x]", "[&x [a], &y {b: *x}, *y]", "{&x a: 1, b: *x}"),
    *(
        "|\n       x\n        y\n",
        ">-\n       x\n       y\n\n       z",
        "|2+\n        x\n\n",
        "a\n       b\n\n       c",
    ),
    "[" * 100 + "]" * 100,
    *(f"[&x [{', '.join('1' for _ in range(size))}]{', *x' * 150}]" for size in (330, 340)),
]
"""Written without quotes as a value: both read the same from it, or both nothing."""

UNREADABLE: Final = [
    *("[1, 2", "{a: b", "*anchor", "@x", "`x`", "%x", "a: b", "- a", "? a", '"a', "[a,,b]", "{<<: 5}", "{<<: [5]}"),
    *('"\\/"', '"\\q"', '"\\U00110000"', "!!int x", "!!int 'a b'", "!!float x", "!!bool x", "!!null x", "&x [*x]"),
    "\n      \tx",
]
"""Values that are YAML that nobody reads."""


@dataclass(frozen=True)
class File:
    """A file, and what of it is not as kubectl sees it."""

    what: str
    text: str
    line: int = 0
    problem: str = ""


_CREW: Final = as_yaml(crew())
_HEARTBEAT: Final = as_yaml(heartbeat())
_LIST: Final = {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}}


def _json(description: str) -> str:
    """A Crew as JSON with this, written as it is between the quotes, as its description."""
    return json.dumps(crew({"spec.description": "TEXT"})).replace("TEXT", description)


def _anchored(config: str) -> str:
    """A Crew whose agents share parts: what is written here is the second's."""
    return (
        "apiVersion: watchbill.dev/v1alpha1\nkind: Crew\nmetadata: {name: c}\nspec:\n  description: &d text\n"
        f"  agents:\n  - &first {{name: a, class: EchoAgent, timeoutSeconds: 5}}\n  - {config}\n"
    )


READ: Final = [
    File("one document", _CREW),
    File("two documents", f"{_CREW}---\n{_HEARTBEAT}"),
    File("empty documents around it", f"---\n---\n# nothing\n---\n{_CREW}---\n~\n---\n"),
    File("a comment behind ---", f"{_CREW}--- # the next\n{_HEARTBEAT}"),
    File("blanks and a tab behind ---", f"{_CREW}--- \t\n{_HEARTBEAT}"),
    File("an end of a document", f"{_CREW}...\n---\n{_HEARTBEAT}...\n"),
    File("lines that end as on Windows", f"{_CREW}---\n{_HEARTBEAT}".replace("\n", "\r\n")),
    File("a mark of byte order", f"\ufeff{_CREW}---\n\ufeff{_HEARTBEAT}"),
    File("tabs behind keys", _CREW.replace("spec:\n", "spec:\t# c\n").replace("kind: ", "kind:\t")),
    File("JSON", _json("x")),
    File("JSON of several objects", f"{_json('x')}{json.dumps(heartbeat())}\n\n{_json('y').replace('blog', 'b')}"),
    File("JSON between ---", f"{_json('x')}\n---\n{json.dumps(heartbeat())}"),
    File("JSON, then YAML", f"{_json('x')}\n---\n{_HEARTBEAT}"),
    File("JSON indented by tabs", json.dumps(crew(), indent="\t")),
    File("JSON behind empty lines", f"\n\n  {_json('x')}"),
    File("JSON as programs write what is beyond U+FFFF", _json("\\ud83d\\ude00 \\\\ud83d \\\\\\uD83D\\uDE00")),
    File("JSON as PHP writes it", _json("a\\/b \\\\/")),
    File("JSON with characters that YAML has not", _json("a \x85 b \u2028 c \x7f d \ufeff \uffff")),
    File("JSON with every other escape", _json('\\u0000 \\t \\n \\" \\u00e9 \\\\u0041')),
    File("JSON with a whole number with a point", _json("x").replace('"agents"', '"maxParallelTasks": 5.0, "agents"')),
    File("nearly JSON", _json("x")[:-1] + ", }"),
    File("a List", as_yaml({**_LIST, "items": [crew(), heartbeat()]})),
    File("a List as JSON", json.dumps({**_LIST, "items": [crew(), heartbeat()]})),
    File("a merge before what differs", _anchored("{<<: *first, name: b}")),
    File("a merge alone", _anchored("{name: b, <<: {class: EchoAgent}}")),
    File("merges one above the other", _anchored("{<<: [{name: b}, {name: c, class: W}], timeoutSeconds: 9}")),
    File("two merges", _anchored("{<<: {name: b, class: V}, <<: {class: W}}")),
    File("an alias of text", _anchored("{name: b, class: EchoAgent, prompt: *d}")),
]
"""Files of which kubectl and `parse` make the same resources."""

ASKED: Final = [
    File("a key given twice in YAML", f"{_CREW}  model: a\n  model: b\n", 12, "is given twice"),
    File("a key given twice in JSON", _json('x", "description": "y'), 1, "is given twice"),
    File("half a character in JSON", _json("\\ud83d"), 1, "half a character"),
    File(
        "a merge behind what differs",
        _anchored("{name: b, timeoutSeconds: 7, <<: {timeoutSeconds: 6, class: E}}"),
        8,
        "before << brings it once more",
    ),
    File("a document behind ...", f"{_CREW}...\n{_HEARTBEAT}", 12, "not YAML that can be read"),
    File("too deep", f"{_CREW}  - {{name: a, class: E, config: {{x: {'[' * 600}{']' * 600}}}}}\n", 1, "too deeply"),
    File("another kind", f"{_CREW}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: x}}\n", 12, "'v1' is not known"),
]
"""Files that kubectl takes, while `parse` asks: something would be lost, or not be read everywhere alike."""

_TENFOLD: Final = "".join(
    f"  - &{b} [{', '.join(f'*{a}' for _ in range(10))}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)

NEITHER: Final = [
    File("nothing", "", 1, "there is nothing in it"),
    File("comments", "# c\n---\n# d\n", 1, "there is nothing in it"),
    File("an empty List", as_yaml({**_LIST, "items": []}), 1, "there is nothing in it"),
    File("a List without items", as_yaml(_LIST), 1, "'v1' is not known"),
    File("a list", f"- {json.dumps(crew())}", 1, "is not a resource"),
    File("text behind ---", f"{_CREW}--- x\n{_HEARTBEAT}", 11, "'x' stands in the line of ---"),
    File("a resource behind ---", f"--- {_json('x')}\n", 1, "stands in the line of ---"),
    File("a directive", f"%YAML 1.1\n---\n{_CREW}", 2, "not YAML that can be read"),
    File("a NUL", f"{_CREW}  description: a\0b\n", 11, "U+0000 may not stand"),
    File("tabs for indentation", _CREW.replace("  agents", "\tagents"), 6, "cannot start any token"),
    File("a control character in JSON", _json("\x01"), 1, "U+0001 may not stand"),
    File("more aliases than there is room", f"a:\n  - &a [{'x, ' * 10}]\n{_TENFOLD}", 1, "written out"),
    File("merges without end", "a: &a\n  <<: *a\n", 1, "contains itself"),
]
"""Files that neither takes."""

STRICTER: Final = [
    *(
        Refused(f"{field} with nothing after it", kind({field: None}), field)
        for kind, field in (
            (crew, "metadata.labels"),
            (crew, "metadata.labels.team"),
            (crew, "metadata.annotations"),
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
    Refused("a name to be made up", crew(name=ABSENT, generateName="blog-"), "metadata.name"),
    Refused("an empty namespace", crew(namespace=""), "metadata.namespace"),
    *(
        Refused(f"the tag of {value}", config, "")
        for value in ("!mine x", "! 5", "!!binary aGk=", "!!timestamp 2026-01-02", "!!set {a: }", "!!str [a]")
        for config in (_CREW + f"  - {{name: a, class: E, config: {{x: {value}}}}}\n",)
    ),
    *(
        Refused(
            f"the key {key}",
            _CREW + f"  - {{name: a, class: E, config: {{{key}: x}}}}\n",
            "spec.agents[2].config." + key,
        )
        for key in ("1", "1.5", "0x10", "yes", "y", ".inf")
    ),
    *(
        Refused(
            f"no space behind the colon of {value}", _CREW + f"  - {{name: a, class: E, config: {{x: {value}}}}}\n", ""
        )
        for value in ("{a:}", "[a:]", "[a:, b]")
    ),
]
"""The server takes these, and a null for the default. Whoever wrote that meant something else, so `parse` asks."""


def config_of(scalar: str) -> str:
    """A Crew with this in its YAML as a value that may be anything."""
    return as_yaml(crew({"spec.agents": [{"name": "a", "class": "EchoAgent"}]})) + f"    config:\n      x: {scalar}\n"


def read_config(resource: dict[str, Any]) -> Any:
    return resource["spec"]["agents"][0]["config"]["x"]
