"""YAML text → Crews and Heartbeats, or everything that is wrong with it: file, line, field, reason, fix. Pure.

Strict as the API server is. The text comes from the caller: nothing is opened here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic import ValidationError

from watchbill.api import checks
from watchbill.api.crew import AGENTS_MAX, RELATIONS_MAX, Crew
from watchbill.api.documents import Document, documents
from watchbill.api.heartbeat import Heartbeat
from watchbill.api.meta import API_VERSION
from watchbill.api.problems import Finding, Loc, NotYaml, explain, field_at, model_at, nearest, quote, suggest
from watchbill.errors import InvalidInput, Problem

_KINDS: Final[dict[str, type[Crew] | type[Heartbeat]]] = {"Crew": Crew, "Heartbeat": Heartbeat}

_READ_BY_RULES: Final = frozenset(
    {"metadata", "spec", "name", "agents", "class", "model", "executionMode", "flowRelations", "source", "target"}
    | {"maxReplicas", "crewRef", "schedule", "intervalSeconds", "timeZone"}
)
"""Fields that rules over several fields look at: with one of them wrong, such a rule would accuse the innocent."""


@dataclass(frozen=True)
class Parsed:
    """The resources of a text, in its order."""

    crews: tuple[Crew, ...]
    heartbeats: tuple[Heartbeat, ...]
    source: str
    _documents: Mapping[int, Document] = field(default_factory=dict, repr=False)

    def where(self, resource: Crew | Heartbeat, loc: Loc = ()) -> str:
        """`crew.yaml:12`: where a field of one of these resources stands, or the nearest around it.

        `loc` is keys and list positions: ("spec", "agents", 1, "class").
        """
        document = self._documents.get(id(resource))
        return f"{self.source}:{document.line(loc)}" if document else self.source


def parse(text: str, source: str) -> Parsed:
    """The resources of a YAML text of any number of documents (JSON is YAML). `source` is what problems call it.

    Raises InvalidInput with every problem found, in the order of lines; MissingExtra without PyYAML.
    """
    problems: list[tuple[int, Problem]] = []
    read: dict[tuple[str, str, str], tuple[Crew | Heartbeat, Document]] = {}

    def add(line: int, reason: str, fix: str, path: str = "") -> None:
        problems.append((line, Problem(reason, fix, path=path, source=f"{source}:{line}")))

    empty = True
    try:
        for document in _each(documents(text)):
            empty = False
            resource, found = _read(document)
            if resource is not None:
                key = (resource.kind, resource.metadata.namespace or "", resource.name)
                if key in read:
                    first = read[key][1].line(("metadata", "name"))
                    reason = f"two {resource.kind}s are called {resource.name!r}; the first is at line {first}"
                    found.append(Finding(("metadata", "name"), reason, "Give each a name of its own."))
                read.setdefault(key, (resource, document))
            for finding in found:
                add(document.line(finding.loc), finding.reason, finding.fix, finding.path)
    except NotYaml as error:
        empty = False
        add(error.line, error.reason, error.fix)
    if empty:
        add(1, "there is nothing in it", "Write a Crew: apiVersion, kind, metadata and spec.")
    if problems:
        raise InvalidInput([problem for _, problem in sorted(problems, key=lambda entry: entry[0])])
    resources = [resource for resource, _ in read.values()]
    return Parsed(
        crews=tuple(r for r in resources if isinstance(r, Crew)),
        heartbeats=tuple(r for r in resources if isinstance(r, Heartbeat)),
        source=source,
        _documents={id(resource): document for resource, document in read.values()},
    )


def _each(found: Iterator[Document]) -> Iterator[Document]:
    """The documents; instead of a List, as which kubectl prints several resources, what is in it."""
    for document in found:
        content = document.value
        listed = isinstance(content, dict) and (content.get("apiVersion"), content.get("kind")) == ("v1", "List")
        if listed and not document.faults and isinstance(content.get("items"), list):
            for i, item in enumerate(content["items"]):
                yield replace(document, value=item, within=("items", i))
        else:
            yield document


def _read(document: Document) -> tuple[Crew | Heartbeat | None, list[Finding]]:
    if document.faults:
        return None, list(document.faults)
    content = document.value
    if not isinstance(content, dict):
        reason = f"{quote(content)} is not a resource"
        return None, [Finding((), reason, "Write a mapping with apiVersion, kind, metadata and spec.")]
    if found := list(_wrong_type_of_resource(content)):
        return None, found
    model = _KINDS[content["kind"]]
    if found := list(_far_too_many(content)):
        return None, found
    resource, found = _validate(model, {key: value for key, value in content.items() if key != "status"})
    if resource is not None:
        found += checks.findings(resource)
    return resource, found


def _wrong_type_of_resource(content: dict[str, Any]) -> Iterator[Finding]:
    for name, known in (("apiVersion", [API_VERSION]), ("kind", list(_KINDS))):
        if name not in content:
            yield Finding((name,), f"{name!r} is missing", f"Add {name}: {' or '.join(known)}.")
        elif content[name] not in known:
            yield Finding((name,), f"{quote(content[name])} is not known as {name}", suggest(content[name], known))


def _far_too_many(content: dict[str, Any]) -> Iterator[Finding]:
    """Lists that are not worth looking at one by one, which would take long and say the same thousands of times."""
    spec = content.get("spec")
    for name, limit in (("agents", AGENTS_MAX), ("flowRelations", RELATIONS_MAX)):
        entries = spec.get(name) if isinstance(spec, dict) else None
        if isinstance(entries, list) and len(entries) > 5 * limit:
            reason = f"there are {len(entries)} entries, and at most {limit} are possible"
            yield Finding(("spec", name), reason, f"Leave {limit} or fewer.")


def _validate(
    model: type[Crew] | type[Heartbeat], content: dict[str, Any]
) -> tuple[Crew | Heartbeat | None, list[Finding]]:
    """The resource, and what is wrong with it.

    pydantic looks at rules over several fields only once every field is well, so that a typo would hide them until
    the next attempt. When nothing that those rules read is wrong, the faulty fields are left out and the rest is
    looked at again.
    """
    try:
        return model.model_validate(content), []
    except ValidationError as error:
        found = explain(model, error)
    rest = copy.deepcopy(content)
    if not all(_leave_out(model, rest, finding.loc) for finding in found):
        return None, found
    try:
        return model.model_validate(rest), found
    except ValidationError as error:
        told = {finding.loc for finding in found}  # a field that must be there is missing once it is left out
        return None, found + [finding for finding in explain(model, error) if finding.loc not in told]


def _leave_out(model: type[Crew] | type[Heartbeat], content: Any, loc: Loc) -> bool:
    """Removes the field from the content; False when that could mislead a rule, or isn't possible."""
    if loc[:2] in (
        ("spec", "delivery"),
        ("spec", "budgets"),
        ("spec", "watches"),
    ):  # the rules of an entry read all its fields
        content["spec"].pop(loc[1], None)
        return True
    while loc and isinstance(loc[-1], int):
        loc = loc[:-1]
    if not loc or loc[-1] in _READ_BY_RULES:
        return False
    declared, owner = field_at(model, loc), model_at(model, loc[:-1])
    if declared is None and owner is not None:
        meant = nearest(loc[-1], (field.alias or name for name, field in owner.model_fields.items()))
        if meant in _READ_BY_RULES:
            return False
    for part in loc[:-1]:
        content = content[part]
    return bool(content.pop(loc[-1], None) is not None) or declared is None
