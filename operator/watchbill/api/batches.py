"""The bounds within which the requests of an agent go by its provider's batches, at half the price. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field, PlainSerializer

from watchbill.api.meta import Strict

REQUESTS_MAX: Final = 10_000


class Batch(Strict):
    """Bounds of the requests that wait for a batch. One is required: if all had defaults, the API server would
    give every agent a batch."""

    max_wait_seconds: int = Field(
        ge=1,
        le=86_400,
        description="Seconds that a task waits for batches at most, from its first request on. After that its requests "
        "are made at once, at the full price.",
    )
    max_gather_seconds: int = Field(
        default=60, ge=0, le=3600, description="Seconds that a request waits for others, to be sent together with them."
    )
    max_requests: int = Field(
        default=1000, ge=1, le=REQUESTS_MAX, description="Requests of one batch, which is sent as soon as it has them."
    )


def _as_written(batch: Batch) -> dict[str, Any]:
    return batch.model_dump(by_alias=True, exclude_unset=True)


StoredBatch = Annotated[Batch, PlainSerializer(_as_written)]
"""As a crew's record has it: by the names of the resource."""

OfAgent = Annotated[
    Batch | None,
    Field(
        description="Requests of tasks of the priority BACKGROUND go by the batches of the model's provider, at half "
        "the price. Default: all requests are made at once."
    ),
]
