r"""PyYAML, held to what Kubernetes' own tools read. Pure; needs PyYAML, of the extra `cli`.

Not yaml.SafeLoader as it is, because: it refuses what kubectl takes (tabs between tokens and in text, an anchor given
twice), and takes what kubectl refuses or reads otherwise (`\/`, `{a:}`, most plain values). Each override here stands
for cases of e2e/control_plane/manifests.

Only how tokens, anchors, tags and values are read; which documents there are, and what of them is refused, is
`documents`' to say.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar, Final

from watchbill.api import scalars

_TAG: Final = "tag:yaml.org,2002:"
STRING: Final = f"{_TAG}str"
FLOAT: Final = f"{_TAG}float"
MERGE: Final = f"{_TAG}merge"
ITEMS_MAX: Final = 5000
"""A list or map may have so many entries, far more than any field takes. A longer one is not read to its end, which
would take long."""
_TAGS: Final = frozenset(f"{_TAG}{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null"))


class NotYaml(Exception):
    """The text can't be read any further; says where and why."""

    def __init__(self, line: int, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason
        self.fix = fix


@functools.cache
def loader() -> Any:  # noqa: C901  # the methods of the class count as one
    """The class of loaders. Raises ImportError without PyYAML."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Overrides PyYAML's own methods of these names."""

        ESCAPE_REPLACEMENTS: ClassVar = {  # type: ignore[misc]
            escaped: meant for escaped, meant in yaml.SafeLoader.ESCAPE_REPLACEMENTS.items() if escaped != "/"
        }

        def scan_to_next_token(self) -> None:
            # a tab may stand between two tokens, and not where indentation means something
            while True:
                super().scan_to_next_token()
                if self.peek() != "\t" or (self.allow_simple_key and not self.flow_level):
                    return
                self.forward()

        def scan_plain_spaces(self, indent: int, start_mark: Any) -> Any:
            length = 0
            while self.peek(length) in " \t":
                length += 1
            blanks = self.prefix(length)
            self.forward(length)
            if self.peek() not in "\r\n\x85\u2028\u2029":
                return [blanks] if blanks else []
            return super().scan_plain_spaces(indent, start_mark)

        def fetch_value(self) -> None:
            before = self.tokens[-1] if self.tokens else None
            plain = isinstance(before, yaml.ScalarToken) and before.plain and before.end_mark.index == self.index
            if plain and self.flow_level and self.peek(1) in ",[]{}":
                reason = "a colon with no space behind it belongs to the text before it"
                raise NotYaml(self.line + 1, reason, "Put a space behind the colon.")
            super().fetch_value()

        def compose_node(self, parent: Any, index: Any) -> Any:
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            if parent is not None and len(parent.value) >= ITEMS_MAX:
                kind = "list" if isinstance(index, int) else "map"
                reason = f"this {kind} has more than {ITEMS_MAX} entries"
                raise NotYaml(event.start_mark.line + 1, reason, "Write fewer; keep large data in a file of its own.")
            if isinstance(event, yaml.AliasEvent):
                return super().compose_node(parent, index)
            if event.tag is not None and event.tag not in _TAGS:
                reason = f"the tag {event.tag.replace(_TAG, '!!')} is not known"
                raise NotYaml(event.start_mark.line + 1, reason, "Remove it, or put the whole text into quotes.")
            anchor: Any = event.anchor  # PyYAML would refuse one that is given again
            if isinstance(event, yaml.ScalarEvent):
                return self.compose_scalar_node(anchor)
            if isinstance(event, yaml.SequenceStartEvent):
                return self.compose_sequence_node(anchor)
            return self.compose_mapping_node(anchor)

        def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
            if kind is not yaml.ScalarNode:
                return f"{_TAG}{'seq' if kind is yaml.SequenceNode else 'map'}"
            if not implicit[0]:
                return STRING
            return MERGE if value == "<<" else _tag_of(scalars.plain(value))

    def construct(self: Any, node: Any) -> scalars.Scalar:
        value = scalars.plain(self.construct_scalar(node))
        if node.tag != _tag_of(value) and not (node.tag == FLOAT and type(value) is int):
            problem = f"{node.value!r} is not what its tag {node.tag.replace(_TAG, '!!')} says"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value

    safe = yaml.SafeLoader.yaml_constructors
    Loader.yaml_constructors = {
        **{tag: safe[tag] for tag in (f"{_TAG}map", f"{_TAG}seq", STRING)},
        **{f"{_TAG}{name}": construct for name in ("int", "float", "bool", "null")},
        MERGE: lambda self, node: node.value,
    }
    return Loader


def _tag_of(value: scalars.Scalar) -> str:
    return _TAG + ("null" if value is None else type(value).__name__)
