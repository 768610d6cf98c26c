"""YAML text → documents that remember the line of each of their values. Pure; needs PyYAML, of the extra `cli`.

Read as Kubernetes' own tools read YAML, and no further: JSON's types, merge keys and anchors. Times and base-60
numbers stay text. What would silently lose something (a key given twice) or can't be said in JSON (other tags, keys
that aren't text) is refused.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from watchbill.api.problems import Finding, Loc
from watchbill.errors import MissingExtra

if TYPE_CHECKING:
    import yaml

_STRING: Final = "tag:yaml.org,2002:str"
_MERGE: Final = "tag:yaml.org,2002:merge"
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*|0o?[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_JSON_TAGS: Final = ("map", "seq", "str", "int", "float", "bool", "null")
_SYNTAX_FIX: Final = (
    "Put text that contains ': ' or begins with one of { [ & * ! | > % @ ` into quotes, and indent by spaces only."
)


class NotYaml(Exception):
    """The text can't be read any further; says where and why."""

    def __init__(self, line: int, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a text."""

    value: Any
    """JSON's types only."""
    node: Any
    faults: tuple[Finding, ...]
    """Keys given twice, and keys that aren't text."""

    def line(self, loc: Loc = ()) -> int:
        """The line, from 1, of the value at this place, or of the nearest one around it."""
        import yaml

        node, line = self.node, self.node.start_mark.line
        for part in loc:
            if isinstance(node, yaml.MappingNode):
                entry = next(((k, v) for k, v in node.value if k.value == part), None)
                if entry is None:
                    break
                line, node = entry[0].start_mark.line, entry[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line
            else:
                break
        return int(line) + 1


def documents(text: str) -> Iterator[Document]:
    """The documents of a text, without empty ones. Raises NotYaml, after the good documents before it; MissingExtra."""
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra("Reading YAML files", "cli") from error
    try:
        loader = _loader()(text)
        while loader.check_node():
            node = loader.get_node()
            faults = tuple(_faults(node))
            # a document with a key that isn't text is refused anyhow
            value = loader.construct_document(node)
            if value is not None:
                yield Document(value, node, faults)
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


@functools.cache
def _loader() -> Any:
    import yaml

    class JsonLoader(yaml.SafeLoader):
        """PyYAML's safe loader, held to the types of JSON."""

    resolvers = {first: list(known) for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()}
    dropped = {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "int", "float")}
    JsonLoader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in dropped] for first, known in resolvers.items()
    }
    JsonLoader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
    JsonLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    known = {f"tag:yaml.org,2002:{name}" for name in _JSON_TAGS}
    JsonLoader.yaml_constructors = {
        tag: construct for tag, construct in yaml.SafeLoader.yaml_constructors.items() if tag in known or tag is None
    }
    return JsonLoader


def _faults(root: yaml.Node) -> Iterator[Finding]:
    """Keys given twice and keys that aren't text, anywhere; raises NotYaml for an anchor that contains itself."""
    import yaml

    seen: set[int] = set()

    def walk(node: yaml.Node, loc: Loc, above: tuple[yaml.Node, ...]) -> Iterator[Finding]:
        if any(node is outer for outer in above):
            reason = f"the value at line {node.start_mark.line + 1} contains itself"
            raise NotYaml(above[-1].start_mark.line + 1, reason, "Remove the alias (*name) that refers to it.")
        if id(node) in seen:
            return
        seen.add(id(node))
        within = (*above, node)
        if isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                yield from walk(item, (*loc, i), within)
        elif isinstance(node, yaml.MappingNode):
            first: dict[str, int] = {}
            for key, value in node.value:
                yield from _key_faults(key, loc, first)
                yield from walk(value, (*loc, str(key.value)), within)

    return walk(root, (), ())


def _key_faults(key: yaml.Node, loc: Loc, first: dict[str, int]) -> Iterator[Finding]:
    if key.tag == _MERGE:
        return
    if key.tag != _STRING:
        shown = key.value if isinstance(key.value, str) else "of several values"
        yield Finding((*loc, str(shown)), f"the key {shown} is not text", "Put it in quotes.")
    elif key.value in first:
        reason = f"the key {key.value!r} is given twice, first at line {first[key.value]}"
        yield Finding((*loc, key.value), reason, "Keep one of the two.")
    first.setdefault(str(key.value), key.start_mark.line + 1)
