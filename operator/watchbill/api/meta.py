"""Parts that Crew and Heartbeat have in common: strictness, names, references and bounds. Pure."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from watchbill import names
from watchbill.api.problems import Finding, Hint, quote, raise_findings, refuse

API_VERSION: Final[Literal["watchbill.dev/v1alpha1"]] = "watchbill.dev/v1alpha1"
"""cluster_names.API_GROUP and cluster_names.API_VERSION; a test holds them together."""

PROMPT_MAX_BYTES: Final = 256 * 1024
"""A copy of tasks.PROMPT_MAX_BYTES, which this layer can't import; a test compares the two."""
TEMPLATE_MAX_BYTES: Final = 128 * 1024
"""Half of that, because the API server's budget for a rule is for all agents together."""
TEXT_MAX: Final = 4096
NAME_MAX: Final = 253

AGENT_NAME_PATTERN: Final = f"^{names.AGENT_NAME.pattern}$"
DNS_LABEL_PATTERN: Final = f"^{names.DNS_LABEL.pattern}$"
_DNS_LABEL: Final = (
    f"lower-case letters, digits and dashes, at most {names.CREW_NAME_MAX}, "
    "beginning and ending with a letter or a digit"
)


class Strict(BaseModel):
    """A part of a resource: unknown fields and wrong types are errors, as at the API server."""

    # Built at first use: a worker reads few of them, and has those built as parts of its crew's definition.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel, defer_build=True)


AgentName = Annotated[str, Field(max_length=63, pattern=AGENT_NAME_PATTERN)]
ResourceName = Annotated[
    str, Field(max_length=names.CREW_NAME_MAX, pattern=DNS_LABEL_PATTERN), Hint(f"Use {_DNS_LABEL}.")
]
AGENT_NAME_HINT: Final = Hint(
    "Use letters, digits, dots, dashes and underscores, at most 63, beginning with a letter or a digit."
)


def _bytes_within(limit: int) -> Any:
    """The parts of an annotation that bound a text's bytes; `bytes_rule` does it at the API server."""

    def check(value: str) -> str:
        size = len(value.encode("utf-8", "surrogatepass"))
        if size > limit:
            refuse(f"the text has {size} bytes, and at most {limit} are possible", _SHORTEN.text)
        return value

    # the schema's bound on characters is what keeps the cost of the rule within the API server's budget
    return Field(max_length=limit), AfterValidator(check)


def bytes_rule(field: str, limit: int) -> dict[str, Any]:
    """CEL: the bound on the bytes of a field. A rule of the field's owner, because an error about a text quotes it."""
    return {
        "rule": f"!has(self.{field}) || size(bytes(self.{field})) <= {limit}",
        "message": f"the text has more than {limit} bytes. {_SHORTEN.text.rstrip('.')}",
        "fieldPath": f".{field}",
    }


_SHORTEN: Final = Hint("Shorten it; larger text belongs into an input, or where a tool can read it.")

Prompt = Annotated[str, *_bytes_within(PROMPT_MAX_BYTES), _SHORTEN]
"""The text of a prompt."""
Template = Annotated[str, *_bytes_within(TEMPLATE_MAX_BYTES), _SHORTEN]
"""Text for a model that stands in every agent."""


def once(value: list[str]) -> list[str]:
    """Checks that nothing stands twice in a list."""
    if again := first_repeated(value):
        position, item = again
        refuse(f"{item!r} is listed twice", f"Remove entry [{position}].")
    return value


UniqueNames = Annotated[list[Annotated[str, Field(min_length=1, max_length=NAME_MAX)]], AfterValidator(once)]
"""A list in which nothing stands twice. Declare with `json_schema_extra=SET`."""

ResourceNames = Annotated[list[ResourceName], AfterValidator(once)]
"""Names of resources, or of parts of them, in which nothing stands twice."""

_INPUT: Final = f"^{names.INPUT_NAME.pattern}$"
InputNames = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=63, pattern=_INPUT)]],
    AfterValidator(once),
    Hint("Use a letter, then letters, digits, - and _ (63 at most)."),
]
"""Names of inputs, each once. Declare with `json_schema_extra=SET`."""

RoleName = Annotated[str, Field(min_length=1, max_length=63, pattern=f"^{names.AGENT_NAME.pattern}$")]
Roles = Annotated[list[RoleName], AfterValidator(once), AGENT_NAME_HINT]
"""Names of roles, each once. Declare with `json_schema_extra=SET`."""

ZONE_MAX: Final = 64
ZONE_PATTERN: Final = "^[A-Za-z][A-Za-z0-9_+/-]*$"
ZONE_HINT: Final = Hint("Use a name such as Europe/Berlin, or UTC.")
ZONE_RULE: Final[dict[str, Any]] = {
    "x-kubernetes-validations": [
        {
            "rule": "timestamp('2000-01-01T00:00:00Z').getHours(self) >= 0",
            "message": "timeZone is not known. Use a name such as Europe/Berlin, or UTC",
        }
    ]
}
"""CEL: the name of a time zone is known. An unknown one makes the function itself fail, and with it the rule. A rule of
the field, because the API server ignores `fieldPath` when a rule fails in this way."""

INPUTS_MAX_ENTRIES: Final = 16
INPUT_MAX_CHARS: Final = 32_768
"""All of a heartbeat must fit into an object of the API server, which takes 1.5 MiB."""
InputTexts = Annotated[
    dict[str, Annotated[str, Field(max_length=INPUT_MAX_CHARS)]], Field(max_length=INPUTS_MAX_ENTRIES)
]
"""Texts by name, as a heartbeat or a watch gives them to its work."""


def misnamed(inputs: InputTexts) -> Iterator[Finding]:
    """Findings of names that no input can have."""
    for name in inputs:
        if not names.INPUT_NAME.fullmatch(name):
            reason = f"{name!r} can't be the name of an input"
            yield Finding(("inputs",), reason, "Use a letter, then letters, digits, - and _ (63 at most).")


SET: Final[dict[str, Any]] = {"x-kubernetes-list-type": "set"}


def by_key(*keys: str) -> dict[str, Any]:
    """The schema extension of a list whose entries are told apart by these fields."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


def first_repeated(values: list[Any]) -> tuple[int, Any] | None:
    """(position, value) of the first that stands for the second time."""
    seen: set[Hashable] = set()
    for position, value in enumerate(values):
        if value in seen:
            return position, value
        seen.add(value)
    return None


_WRITTEN_BY_KUBERNETES: Final = frozenset(
    {"generateName", "selfLink", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"}
    | {"deletionGracePeriodSeconds", "ownerReferences", "finalizers", "managedFields"}
)
_ANNOTATIONS_MAX_BYTES: Final = 256 * 1024
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_LABEL_FIX: Final = (
    "letters, digits, dashes, dots and underscores, at most 63, beginning and ending with a letter or a digit"
)
_KEY_FIX: Final = f"Use {_LABEL_FIX}; before it there may be a domain in lower-case letters, and a slash."


class ObjectMeta(Strict):
    """Name and labels. What Kubernetes itself writes here is passed over, so that its own output can be read."""

    name: ResourceName = Field(description=f"The name: {_DNS_LABEL}.")
    namespace: str | None = Field(
        default=None, max_length=63, pattern=DNS_LABEL_PATTERN, description="The namespace; default: the command's."
    )
    labels: dict[str, str] = Field(default_factory=dict, description="Labels, kept as they are.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Annotations, kept as they are.")

    @model_validator(mode="before")
    @classmethod
    def _without_what_kubernetes_writes(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: part for name, part in value.items() if name not in _WRITTEN_BY_KUBERNETES}

    @model_validator(mode="after")
    def _fit_for_kubernetes(self) -> ObjectMeta:
        raise_findings(type(self), [*self._unfit_labels(), *self._unfit_annotations()])
        return self

    def _unfit_labels(self) -> Iterator[Finding]:
        for key, value in self.labels.items():
            if not _is_key(key):
                yield Finding(("labels", key), f"{quote(key)} can't be the name of a label", _KEY_FIX)
            if value and not _LABEL.fullmatch(value):
                reason = f"{quote(value)} can't be the value of a label"
                yield Finding(("labels", key), reason, f"Use {_LABEL_FIX}; or an annotation.")

    def _unfit_annotations(self) -> Iterator[Finding]:
        for key in self.annotations:
            if not _is_key(key.lower()):
                yield Finding(("annotations", key), f"{quote(key)} can't be the name of an annotation", _KEY_FIX)
        size = sum(len(text.encode()) for entry in self.annotations.items() for text in entry)
        if size > _ANNOTATIONS_MAX_BYTES:
            reason = f"names and values have {size} bytes together, and at most {_ANNOTATIONS_MAX_BYTES} are possible"
            yield Finding(("annotations",), reason, "Shorten them.")


def _is_key(key: str) -> bool:
    """Returns whether the key can name a label, or, in lower case, an annotation."""
    prefix, slash, name = key.rpartition("/")
    fits = not slash or (len(prefix) <= NAME_MAX and _PREFIX.fullmatch(prefix))
    return bool(fits and _LABEL.fullmatch(name))


NAME_RULE: Final[dict[str, Any]] = {
    "rule": f"size(self.metadata.name) <= {names.CREW_NAME_MAX} && self.metadata.name.matches('{DNS_LABEL_PATTERN}')",
    "message": f"this name is not usable. Use {_DNS_LABEL}",
    "fieldPath": ".metadata.name",
}
"""CEL: what `ObjectMeta` says about names. Not in the schema's own words, which would quote a pattern."""


def refuse_reserved(model: type[BaseModel], name: str) -> None:
    """Raises when a crew has the name of an index of the crew records."""
    if name in names.RESERVED_CREW_NAMES:
        reserved = ", ".join(sorted(names.RESERVED_CREW_NAMES))
        fix = f"Choose another name than {reserved}."
        raise_findings(model, [Finding(("metadata", "name"), f"{name!r} is reserved for an index of the records", fix)])
