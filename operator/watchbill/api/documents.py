"""YAML text → documents that remember the line of each of their values. Pure; needs PyYAML, of the extra `cli`.

Divided into documents and read as kubectl does it (`loader`, `scalars`); what begins with { may be JSON, one object
after the other. What would silently lose something (a key given twice), differs from tool to tool (some merges) or
can't be said in JSON (infinity, keys that aren't text) is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from watchbill.api import scalars
from watchbill.api.problems import Finding, Loc, NotYaml, quote
from watchbill.api.scalars import FLOAT, MERGE, STRING
from watchbill.errors import needed

if TYPE_CHECKING:
    import yaml

_SYNTAX_FIX: Final = (
    "Put text that contains ': ' or begins with one of { [ & * ! | > % @ ` into quotes, and indent by spaces only."
)
_SEPARATOR: Final = re.compile(r"^---([^\n]*)\n?", re.MULTILINE)
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_HALF: Final = re.compile("[\ud800-\udfff]")
# every escape of a JSON text, so that none is taken for the end of another; and what may not stand in YAML as it is
_JSON_ONLY: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|.)|[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]"
)


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a text, or one value within it."""

    value: Any
    """JSON's types only."""
    node: Any
    faults: tuple[Finding, ...] = ()
    """Findings of YAML that is valid and still refused, such as a key given twice."""
    first: int = 0
    """The line, from 0, where the document begins."""
    within: Loc = ()
    """The place of the value in the document."""

    def line(self, loc: Loc = ()) -> int:
        """The line, from 1, of what is at this place of the value, or of the nearest around it."""
        import yaml

        node, line = self.node, self.node.start_mark.line
        for part in (*self.within, *loc):
            if isinstance(node, yaml.MappingNode):
                # the last, because keys that were merged in stand first
                entry = next(((k, v) for k, v in reversed(node.value) if k.value == part), None)
                if entry is None:
                    break
                line, node = entry[0].start_mark.line, entry[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line
            else:
                break
        return int(line) + self.first + 1


def documents(text: str) -> Iterator[Document]:
    """The documents of a text, without empty ones. Raises NotYaml, after the good documents before it; MissingExtra."""
    for first, part in _parts(text):
        try:
            yield from _read(part, first)
        except NotYaml as error:
            raise NotYaml(error.line + first, error.reason, error.fix) from error


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """Each document's first line, from 0, and its YAML."""
    at = 0
    while found := _json_at(text, at):
        begin, at = found
        yield text.count("\n", 0, begin), _JSON_ONLY.sub(_as_yaml, text[begin:at])
    for separator in _SEPARATOR.finditer(text, at):
        yield text.count("\n", 0, at), text[at : separator.start()]
        at = separator.end()
        behind = separator[1].strip()
        if behind and not behind.startswith("#"):
            line = text.count("\n", 0, separator.start()) + 1
            raise NotYaml(line, f"{quote(behind)} stands in the line of ---", "Put it into the next line.")
    yield text.count("\n", 0, at), text[at:]


def _json_at(text: str, at: int) -> tuple[int, int] | None:
    """Beginning and end of the JSON object that is next."""
    space = _SPACE.match(text, at)
    begin = space.end() if space else at
    if not text.startswith("{", begin):
        return None
    try:
        return begin, _JSON.raw_decode(text, begin)[1]
    except (ValueError, RecursionError):  # it may still be YAML
        return None


def _no_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_JSON: Final = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_no_json)


def _as_yaml(found: re.Match[str]) -> str:
    match found[0]:
        case r"\/":
            return "/"
        case str(character) if len(character) == 1:
            return f"\\u{ord(character):04x}"
        case str(escape) if len(escape) > 2:
            return str(json.loads(f'"{escape}"'))
    return found[0]


def _read(text: str, first: int) -> Iterator[Document]:
    with needed("Reading YAML files", "cli"):
        import yaml

        from watchbill.api.loader import Loader

    reading = None
    try:
        reading = Loader(text)
        while reading.check_node():
            node: Any = reading.get_node()
            _refuse_too_many_aliases(node)
            faults = tuple(_faults(node))
            # a document with a key that isn't text is refused anyhow
            value = reading.construct_document(node)
            if value is not None:
                yield Document(value, node, faults, first)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        reason = f"this is not YAML that can be read: {error.problem}, at column {column}"
        raise NotYaml(line, reason, _SYNTAX_FIX) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        reason = f"the character U+{error.character:04X} may not stand in YAML"
        raise NotYaml(line, reason, "Remove it, or write it as \\x.. within double quotes.") from error
    except RecursionError as error:
        raise NotYaml(1, "this is nested too deeply", "Nest it less.") from error
    except (ValueError, OverflowError) as error:  # PyYAML doesn't look at the number of \U........
        line = reading.line + 1 if reading else 1
        reason = "this is not YAML that can be read: there is no such character"
        raise NotYaml(line, reason, "Write \\U and the eight digits of one up to 0010FFFF.") from error


def _refuse_too_many_aliases(root: yaml.Node) -> None:
    """A few lines can stand for more than a machine has room for. The bounds are those of Kubernetes' tools.

    Raises NotYaml, also for an anchor that contains itself.
    """
    import yaml

    sizes: dict[int, int] = {}
    written = 1

    def expanded(node: yaml.Node, line: int) -> int:
        nonlocal written
        if sizes.get(id(node)) == 0:
            reason = f"the value at line {node.start_mark.line + 1} contains itself"
            raise NotYaml(line + 1, reason, "Remove the alias (*name) that refers to it.")
        if id(node) in sizes:
            return 1 + sizes[id(node)]  # an alias, and what it stands for
        sizes[id(node)], size = 0, 1
        below: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            below = node.value
        elif isinstance(node, yaml.MappingNode):
            below = [part for entry in node.value for part in entry]
        for part in below:
            size += expanded(part, node.start_mark.line)
        written += len(below)
        sizes[id(node)] = size
        return size

    whole = expanded(root, root.start_mark.line)
    aliased = whole - written
    most = min(0.99, max(0.10, 0.99 - 0.89 * (whole - 400_000) / 3_600_000))
    if aliased > 100 and whole > 1000 and aliased / whole > most:
        reason = f"with every alias (*name) written out there are {whole} values, where {written} are written"
        raise NotYaml(root.start_mark.line + 1, reason, "Use fewer aliases.")


def _faults(root: yaml.Node) -> Iterator[Finding]:
    """Finds what is valid YAML and still refused, anywhere."""
    import yaml

    seen: set[int] = set()

    def walk(node: yaml.Node, loc: Loc) -> Iterator[Finding]:
        if id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            yield from _scalar_faults(node, loc)
        elif isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                yield from walk(item, (*loc, i))
        elif isinstance(node, yaml.MappingNode):
            first: dict[str, int] = {}
            for key, value in node.value:
                yield from _key_faults(key, value, loc, first)
                yield from walk(value, (*loc, str(key.value)))

    return walk(root, ())


def _scalar_faults(node: yaml.ScalarNode, loc: Loc) -> Iterator[Finding]:
    number = scalars.plain(node.value) if node.tag == FLOAT else None
    if isinstance(number, float) and not math.isfinite(number):
        yield Finding(loc, f"there is no number {node.value} in JSON", "Put it in quotes, if text is meant.")
    if half := _HALF.search(node.value):
        fix = "Write the character itself, or \\U and its eight digits within double quotes."
        yield Finding(loc, f"{half[0]!a} is half a character", fix)


def _key_faults(key: yaml.Node, value: yaml.Node, loc: Loc, first: dict[str, int]) -> Iterator[Finding]:
    if key.tag == MERGE:
        for name in _merged(value):
            if name in first:
                reason = f"the key {name!r} is given before << brings it once more, and not all tools take the same"
                yield Finding((*loc, name), reason, "Put << before every other key.")
        return
    if key.tag != STRING:
        shown = key.value if isinstance(key.value, str) else "of several values"
        fix = "Put it in quotes."
        if shown == "on" and "delivery" in loc:  # YAML reads it as true, so the field has another name
            fix = "The field is called outcomes, as in outcomes: [Failure]."
        yield Finding((*loc, str(shown)), f"the key {shown} is not text", fix)
    elif _HALF.search(key.value):
        yield Finding(loc, f"the key {key.value!a} has half a character", "Write the character itself.")
    elif key.value in first:
        reason = f"the key {key.value!r} is given twice, first at line {first[key.value]}"
        yield Finding((*loc, key.value), reason, "Keep one of the two.")
    first.setdefault(str(key.value), key.start_mark.line + 1)


def _merged(value: yaml.Node) -> Iterator[str]:
    """The keys that << brings."""
    import yaml

    if isinstance(value, yaml.SequenceNode):
        for part in value.value:
            yield from _merged(part)
    elif isinstance(value, yaml.MappingNode):
        for key, below in value.value:
            yield from _merged(below) if key.tag == MERGE else (str(key.value),)
