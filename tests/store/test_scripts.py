"""The text of the queue's scripts: their flags, their headers, and the parts that they are made of."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Final, Literal

import pytest

from watchbill.connection import scripts

pytestmark = pytest.mark.pure

FOLDERS: Final = {"": "watchbill.store", "messaging/": "watchbill.messaging", "network/": "watchbill.network"}
TEXTS: Final = {
    prefix + path.name.removesuffix(".lua"): path.read_text()
    for prefix, package in FOLDERS.items()
    for path in resources.files(package).joinpath("scripts").iterdir()
    if path.name.endswith(".lua")
}
PARTS: Final = sorted(name for name in TEXTS if name.startswith("lib"))
APART: Final = sorted(
    name for name in TEXTS if name.startswith(("crews_", "delivery_", "events_", "services_")) or "/" in name
)
"""The scripts of crew records, event streams, streams that results go to, and other packages. They have no parts."""
SCRIPTS: Final = sorted(name for name in TEXTS if not name.startswith("lib") and name not in APART)
"""The scripts that the queue's stubs call."""

MEMORY: Final[dict[str, Literal["adds", "ends", "reads", "sweeps"]]] = {
    "admit": "ends",
    "apply": "adds",
    "ask_help": "ends",
    "batch_gather": "ends",
    "batch_leave": "ends",
    "batch_mark": "ends",
    "batch_seal": "ends",
    "batch_tell": "ends",
    "cancel_run": "ends",
    "checkpoint": "ends",
    "checkpoints": "reads",
    "circuit": "ends",
    "claim": "ends",
    "close": "ends",
    "decide": "ends",
    "declare_dead": "ends",
    "defer": "ends",
    "delegate": "adds",
    "delete": "ends",
    "drain": "ends",
    "enter": "ends",
    "explain": "ends",
    "extend": "adds",
    "figures": "reads",
    "finish": "ends",
    "hand_back": "ends",
    "heartbeat_apply": "adds",
    "heartbeat_fire": "adds",
    "heartbeat_miss": "ends",
    "heartbeat_remove": "ends",
    "heartbeat_services": "ends",
    "heartbeat_trim": "ends",
    "leave": "ends",
    "loaded": "ends",
    "move_due": "ends",
    "park": "ends",
    "purge": "ends",
    "record_loss": "ends",
    "recover": "ends",
    "refuse": "ends",
    "release": "ends",
    "renew": "ends",
    "replay": "adds",
    "reschedule": "ends",
    "return_dead": "ends",
    "resume": "ends",
    "run": "reads",
    "say": "ends",
    "session_add": "ends",
    "session_read": "reads",
    "spend": "ends",
    "start": "ends",
    "stop": "ends",
    "submit": "adds",
    "submit_run": "adds",
    "subscribe": "ends",
    "suspend": "ends",
    "sweep": "sweeps",
    "trim": "ends",
    "unpark": "ends",
    "unpostpone": "ends",
    "watch_fire": "adds",
    "watch_look": "ends",
    "why": "reads",
    "workers": "reads",
    "messaging/stream_add": "adds",
    "messaging/stream_bury": "ends",
    "messaging/stream_cleanup": "ends",
    "messaging/stream_leave": "ends",
    "messaging/stream_read": "ends",
    "messaging/stream_renew": "ends",
    "network/cache_append": "adds",
    "network/cache_clear": "ends",
    "network/cache_recent": "reads",
    "network/cache_remove": "ends",
}
"""`adds`: it brings work, and is refused when the server's memory is short; `ends`: it ends work or lets it go on, and
is not refused; `reads`: it writes nothing; `sweeps`: neither does it, and what it reads is in many slots."""
FLAGS: Final = {
    "adds": "#!lua",
    "ends": "#!lua flags=allow-oom",
    "reads": "#!lua flags=no-writes",
    "sweeps": "#!lua flags=no-writes,allow-cross-slot-keys",
}


_NAME: Final = r"[A-Za-z_]\w*"
_TOP: Final = re.compile(rf"^local (?:function )?({_NAME}(?:, {_NAME})*)", re.MULTILINE)
_LOCAL: Final = re.compile(rf"\b(?:local|for)\s+(?!function\b)({_NAME}(?:\s*,\s*{_NAME})*)")
_FUNCTION: Final = re.compile(rf"\bfunction\s*({_NAME})?\s*\(([^)]*)\)")
_USED: Final = re.compile(rf"(?<![.\w])({_NAME})\b(?!\s*=[^=])")


def code(name: str) -> str:
    """The text without comments and strings."""
    text = re.sub(r"'(?:[^'\\\n]|\\.)*'", "''", TEXTS[name])
    return re.sub(r"--.*", "", text)


def names(found: Iterable[str]) -> set[str]:
    return {name for many in found for name in re.split(r"\s*,\s*", many.strip()) if name}


def defined(part: str) -> set[str]:
    """What it gives to those behind it."""
    return names(_TOP.findall(code(part)))


def used(name: str) -> set[str]:
    """What a script or part takes from others: names that it uses and doesn't declare itself."""
    text = code(name)
    own = names(_LOCAL.findall(text))
    for function, parameters in _FUNCTION.findall(text):
        own |= names([function, parameters])
    return set(_USED.findall(text)) - own


def test_every_script_declares_what_it_may_do_when_memory_is_short() -> None:
    assert set(SCRIPTS) <= set(MEMORY)
    assert {name: TEXTS[name].partition("\n")[0] for name in MEMORY} == {
        name: FLAGS[kind] for name, kind in MEMORY.items()
    }


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_no_line_is_longer_than_120_columns(name: str) -> None:
    assert [line for line in TEXTS[name].splitlines() if len(line) > 120] == []


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_no_function_has_more_than_six_parameters(name: str) -> None:
    lists = [parameters.split(",") for _, parameters in _FUNCTION.findall(code(name))]
    assert [parameters for parameters in lists if len(parameters) > 6] == []


# ---------------------------------------------------------------- headers
# A header says what each of KEYS and ARGV is, and the code calls it by that name.

_GIVEN: Final = re.compile(r"\b(?:ARGV|KEYS)\[")
_NUMBERED: Final = re.compile(r"\b(ARGV|KEYS)\[(?:FIXED \+ )?(\d+)\]")


def statements(name: str) -> list[str]:
    """Lines of code, each with those that continue it."""
    found: list[str] = []
    for line in code(name).splitlines():
        going_on = found and (found[-1].rstrip().endswith((",", "=", "+")) or line.lstrip().startswith((".", "+")))
        if going_on:
            found[-1] += " " + line.strip()
        else:
            found.append(line.strip())
    return found


def header(name: str) -> dict[tuple[str, int], str]:
    """(KEYS or ARGV, number) → its name."""
    found: dict[tuple[str, int], str] = {}
    section = ""
    for line in TEXTS[name].splitlines():
        if begins := re.match(r"-- (KEYS|ARGV|Answers)\b", line):
            section = begins[1]
        elif numbered := re.match(r"--   (\d+) (\w+|\.\.\.)", line):
            found[section, int(numbered[1])] = numbered[2]
    return found


def split(listed: str) -> list[str]:
    """The items of a list, at the commas that stand in no brackets."""
    items, depth = [""], 0
    for c in listed:
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            items.append("")
        else:
            items[-1] += c
    return items


def bound(name: str) -> Iterator[tuple[str, int, str]]:
    """(KEYS or ARGV, number, the name that it is bound to)."""
    for statement in statements(name):
        assignment = re.match(rf"(?:local )?({_NAME}(?:, {_NAME})*) = (.*)", statement)
        pairs = zip(split(assignment[1]), split(assignment[2]), strict=False) if assignment else ()
        for target, value in pairs:
            fields = split(value.strip()[1:-1]) if value.strip().startswith("{") else [f"{target} = {value}"]
            for field in fields:
                for given, number in _NUMBERED.findall(field):
                    yield given, int(number), field.partition("=")[0].strip()


@pytest.mark.parametrize("name", sorted({*TEXTS} - {"lib"}))
def test_what_a_script_is_given_is_bound_to_names_first(name: str) -> None:
    uses = [one for one in statements(name) if _GIVEN.search(one)]
    assert [one for one in uses if not re.match(r"(?:local )?[\w\[\], .+-]+ = (?!=)", one)] == []
    assert [one for one in uses if "redis." in one] == []


@pytest.mark.parametrize("name", [*SCRIPTS, *APART, "lib_claims"])
def test_a_header_names_what_the_code_is_given(name: str) -> None:
    named = header(name)
    for given in ("KEYS", "ARGV"):
        numbers = [number for kind, number in named if kind == given]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    used_parts = [] if name in APART else declared(name)
    own, of_parts = list(bound(name)), [one for part in used_parts for one in bound(part)]
    assert len(own) == len(_NUMBERED.findall(code(name)))
    assert [one for one in own if named.get(one[:2]) != one[2]] == []
    given_names = {(*key, called) for key, called in named.items() if called != "..."}
    assert given_names - {*own, *of_parts} == set(), "nobody needs that"


# ---------------------------------------------------------------- parts
# Making a part's functions costs time at each call, so a script names those that it needs and no other.

OWNERS: Final = {name: part for part in PARTS if part != "lib" for name in defined(part)}


def parts(name: str) -> set[str]:
    """The parts whose names it uses itself."""
    return {OWNERS[one] for one in used(name) if one in OWNERS} - {name}


def declared(name: str) -> list[str]:
    (line,) = re.findall(r"^-- uses (.*)$", TEXTS[name], re.MULTILINE)
    return [] if line == "nothing" else [f"lib_{part}" for part in line.split()]


def test_no_two_parts_define_the_same_name() -> None:
    given = [name for part in PARTS for name in defined(part)]
    assert sorted(given) == sorted(set(given))


@pytest.mark.parametrize("name", sorted({*SCRIPTS, *PARTS} - {"lib"}))
def test_a_script_and_a_part_name_the_parts_that_they_need_and_no_other(name: str) -> None:
    """A part names those that it uses itself; a script those that these need, too, each behind what it needs."""
    needed, found = set[str](), parts(name)
    while name in SCRIPTS and found - needed:
        needed |= found
        found = {part for one in needed for part in parts(one)}
    given = declared(name)
    assert set(given) == (needed or found)
    for place, part in enumerate(given):
        assert parts(part) & set(given[place:]) == set(), f"{part} stands before what it needs"


def test_nothing_is_defined_that_nobody_uses() -> None:
    everything = " ".join(code(name) for name in TEXTS)
    once = [name for part in PARTS for name in defined(part) if len(re.findall(rf"\b{name}\b", everything)) < 2]
    assert once == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_parts_stand_behind_the_first_line(name: str) -> None:
    text, digest = scripts.source(name)
    shebang, uses, body = TEXTS[name].split("\n", 2)
    assert uses.startswith("-- uses ")
    assert text.startswith(shebang + "\n" + TEXTS["lib"])
    assert text.endswith(f"{body}\nend)()")
    assert {part for part in PARTS if TEXTS[part] in text} == {"lib", *declared(name)}
    assert digest == hashlib.sha1(text.encode()).hexdigest()
