"""Limits of how often the agents of a crew begin and its models are asked, over all of its workers. Pure.

A rule that joins several fields stands twice, as in crew.py: for Python, and for the API server (CEL).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Final

from pydantic import ConfigDict, Field, PlainSerializer, model_validator

from watchbill.api.meta import NAME_MAX, Strict, by_key
from watchbill.api.problems import Finding, raise_findings

REQUESTS_MAX: Final = 1_000_000
PERIOD_MAX: Final = 86_400
CONCURRENT_MAX: Final = 10_000
TOKENS_MAX: Final = 10**12
MODELS_MAX: Final = 100


class RateLimit(Strict):
    """A limit of how often the tasks of an agent start."""

    requests: int = Field(ge=1, le=REQUESTS_MAX, description="Number of its tasks that may start in each period.")
    period_seconds: int = Field(default=1, ge=1, le=PERIOD_MAX, description="Length of the period in seconds.")
    burst: int = Field(
        default=1,
        ge=1,
        le=REQUESTS_MAX,
        description="Number of its tasks that may start at once after a pause. With 1 they start at even distances.",
    )


class ModelLimit(Strict):
    """A limit of how often a model is asked, and with how many tokens."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "has(self.requests) || has(self.tokens)",
                    "message": "neither requests nor tokens is given, so nothing is limited. Add one, or both",
                },
                {
                    "rule": "has(self.requests) || self.burst == 1",
                    "message": "burst means something with requests only. Add requests, or remove burst",
                    "fieldPath": ".burst",
                },
            ]
        }
    )

    model: str = Field(min_length=1, max_length=NAME_MAX, description="The model as agents name it: provider:name.")
    requests: int | None = Field(
        default=None, ge=1, le=REQUESTS_MAX, description="Number of requests that it may get in each period."
    )
    tokens: int | None = Field(
        default=None,
        ge=1,
        le=TOKENS_MAX,
        description="Number of tokens that it may read and write in each period; as many may go at once after a pause.",
    )
    period_seconds: int = Field(default=60, ge=1, le=PERIOD_MAX, description="Length of the period in seconds.")
    burst: int = Field(
        default=1,
        ge=1,
        le=REQUESTS_MAX,
        description="Number of requests that may go at once after a pause. With 1 they go at even distances.",
    )

    @model_validator(mode="after")
    def _sound(self) -> ModelLimit:
        raise_findings(type(self), self._broken_rules())
        return self

    def _broken_rules(self) -> Iterator[Finding]:
        if self.requests is None and self.tokens is None:
            yield Finding((), "neither requests nor tokens is given, so nothing is limited", "Add one, or both.")
        elif self.requests is None and self.burst != 1:
            yield Finding(("burst",), "burst means something with requests only", "Add requests, or remove burst.")


ModelLimits = Annotated[
    list[ModelLimit],
    Field(
        max_length=MODELS_MAX,
        description="Limits of how often models are asked, over all workers of the crew. A request for which there is "
        "no room waits for its turn.",
        json_schema_extra=by_key("model"),
    ),
]


def repeated(limits: Sequence[ModelLimit]) -> Iterator[Finding]:
    """Findings about models that stand twice; the API server itself refuses them."""
    first: dict[str, int] = {}
    for i, limit in enumerate(limits):
        if limit.model in first:
            reason = f"{limit.model!r} stands twice: modelLimits[{first[limit.model]}] and modelLimits[{i}]"
            yield Finding(("modelLimits", i, "model"), reason, "Remove one of the two, or name another model.")
        first.setdefault(limit.model, i)


StoredRate = Annotated[RateLimit, PlainSerializer(lambda limit: limit.model_dump(by_alias=True))]
"""As it stands in the record of a crew."""

MaxConcurrent = Annotated[
    int | None,
    Field(
        ge=1,
        le=CONCURRENT_MAX,
        description="Number of its tasks that run at once, over all workers of the crew. Others wait without a slot.",
    ),
]
AgentRate = Annotated[
    RateLimit | None,
    Field(description="Limit of how often its tasks start, over all workers of the crew. Others wait without a slot."),
]
