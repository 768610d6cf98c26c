"""Decides when requests to models are sent as a batch of their provider, and when that is looked at. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of all requests of one batch: it is sent within some seconds."""
REQUEST_MAX: Final = 4 * 1024 * 1024
"""Bytes of one request. A larger one is made at once."""
_LONGEST_SECONDS: Final = 600.0
_GROWTH: Final = 1.5


@dataclass(frozen=True, slots=True)
class Group:
    """The properties that requests of one batch have in common."""

    model: str
    """As the crew has it."""
    base_url: str | None
    shared: str
    """The other properties that the provider wants them to share (EncodedBatchRequest.group)."""
    max_requests: int = dataclasses.field(compare=False)

    @property
    def id(self) -> str:
        text = json.dumps([self.model, self.base_url, self.shared])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def pack(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def unpack(cls, text: str) -> Group:
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch on its way."""

    id: str
    """Our own."""
    group: Group
    handle: Mapping[str, Any] | None = None
    """The provider's account of it; None: it was not sent, or nobody knows."""
    tried_ms: int = 0
    """The time at which it was sent for the first time; 0: it surely was not. Without a handle, the provider may have
    it."""
    sent_ms: int = 0
    looks: int = 0
    """The number of looks at it, or of attempts to send it, since it was sent or gathered."""
    next_ms: int = 0
    """The time of the next look."""
    is_cancelled: bool = False
    """The provider was told that nobody waits for it any more."""
    held: int = 0
    """The number of times that a task could not be told, as it was yet to be set aside."""

    def pack(self) -> str:
        return json.dumps({**dataclasses.asdict(self), "id": ""})

    @classmethod
    def unpack(cls, batch_id: str, text: str) -> Batch:
        known = json.loads(text)
        return cls(**{**known, "id": batch_id, "group": Group(**known["group"])})

    def later(self, now_ms: int, first_seconds: float) -> Batch:
        """The batch, which is looked at again after a pause that grows with each look."""
        seconds = min(first_seconds * _GROWTH ** min(self.looks, 32), max(_LONGEST_SECONDS, first_seconds))
        return dataclasses.replace(self, looks=self.looks + 1, next_ms=now_ms + int(seconds * 1000))


@dataclass(frozen=True, slots=True)
class Queued:
    """The requests of a group that are gathered."""

    group: Group
    number: int
    """At most as many as one batch takes."""
    seal_ms: int
    """The time at which the first of them is sent, however few they are."""

    def is_due(self, now_ms: int) -> bool:
        return self.number >= self.group.max_requests or self.seal_ms <= now_ms


def request_id(crew: str, call: str) -> str:
    """The id of a request at its provider. `call`: of its reservation, which no other request of the crew has."""
    return hashlib.sha256(f"{crew}/{call}".encode()).hexdigest()[:32]


def place(group: Group, seal_ms: int) -> str:
    """The place of a gathered request in the lane: by group, the most urgent first."""
    return f"g:{group.id}:{seal_ms:014d}"
