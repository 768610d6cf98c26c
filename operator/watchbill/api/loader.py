r"""PyYAML, held to what Kubernetes' own tools read. Pure; needs PyYAML, of the extra `cli`.

Not yaml.SafeLoader as it is, because: it refuses what kubectl takes (tabs between tokens and in text, an anchor given
twice), and takes what kubectl refuses or reads otherwise (`\/`, `{a:}`, most plain values). Each override here stands
for cases of e2e/control_plane/manifests.

Only how tokens, anchors, tags and values are read; which documents there are, and what of them is refused, is
`documents`' to say.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from watchbill.api import scalars
from watchbill.api.problems import NotYaml
from watchbill.api.scalars import FLOAT, MERGE, STRING, TAG, tag_of
from watchbill.errors import needed

with needed("Reading YAML files", "cli"):
    import yaml

ITEMS_MAX: Final = 5000
"""A list or map may have so many entries, far more than any field takes. A longer one is not read to its end, which
would take long."""
_TAGS: Final = frozenset(f"{TAG}{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null"))


class Loader(yaml.SafeLoader):
    """A loader that overrides PyYAML's own methods of these names."""

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
            reason = f"the tag {event.tag.replace(TAG, '!!')} is not known"
            raise NotYaml(event.start_mark.line + 1, reason, "Remove it, or put the whole text into quotes.")
        anchor: Any = event.anchor  # PyYAML would refuse one that is given again
        if isinstance(event, yaml.ScalarEvent):
            return self.compose_scalar_node(anchor)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.compose_sequence_node(anchor)
        return self.compose_mapping_node(anchor)

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        if kind is not yaml.ScalarNode:
            return f"{TAG}{'seq' if kind is yaml.SequenceNode else 'map'}"
        if not implicit[0]:
            return STRING
        return MERGE if value == "<<" else tag_of(scalars.plain(value))


def _construct(self: Any, node: Any) -> scalars.Scalar:
    value = scalars.plain(self.construct_scalar(node))
    if node.tag != tag_of(value) and not (node.tag == FLOAT and type(value) is int):
        problem = f"{node.value!r} is not what its tag {node.tag.replace(TAG, '!!')} says"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return value


_SAFE: Final = yaml.SafeLoader.yaml_constructors
Loader.yaml_constructors = {
    **{tag: _SAFE[tag] for tag in (f"{TAG}map", f"{TAG}seq", STRING)},
    **{f"{TAG}{name}": _construct for name in ("int", "float", "bool", "null")},
    MERGE: lambda self, node: node.value,
}
