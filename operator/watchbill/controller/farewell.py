"""Gives the work of a deleted crew the time that its pods have, before anything of the crew is removed.

The garbage collector stops the pods as soon as their Crew is deleted. Their workers end what they can, and must find
the crew in the store until then. It is closed meanwhile: it takes no work, and none begins.
"""

from __future__ import annotations

import math
from typing import Final

import redis.asyncio

from watchbill.clock import SYSTEM, Clock
from watchbill.names import CrewKeys
from watchbill.plan.manifests import GRACE_SECONDS
from watchbill.store import control
from watchbill.store.workers import workers

AGAIN_SECONDS: Final = 0.5
READ_SECONDS: Final = 3.0
"""Seconds for which results that were just written are kept, for clients that wait: they look every two."""
_KEPT_MS: Final = 60_000
FORGET_SECONDS: Final = 60.0
"""After so long without a look, another has removed the crew, or the store has lost it."""


class Farewell:
    """The crews that wait for their removal. What it remembers may be lost."""

    def __init__(self, client: redis.asyncio.Redis, clock: Clock = SYSTEM) -> None:
        self._client = client
        self._clock = clock
        self._ended: dict[str, float] = {}
        """Uid → when work of the crew was last seen to run, or was cancelled; the one time, or the other."""

    async def pause(self, keys: CrewKeys, uid: str) -> float | None:
        """Closes the crew. Returns in how many seconds to look again; None: it may be removed.

        Raises CrewGone when the removal has begun.
        """
        _, closed_ms, told = await control.call(self._client, keys, "close", keys.fixed, [uid])
        policy, _, grace = str(told).partition(" ")
        now = self._clock.monotonic()
        self._ended = {of: at for of, at in self._ended.items() if now - at < FORGET_SECONDS}
        if policy == "Cancel" and uid not in self._ended:
            done = await control.cancel_all(self._client, keys, uid, None, "the crew was deleted", _KEPT_MS)
            self._ended[uid] = now if done.cancelled or done.cancelling else -math.inf
        if any(worker.holds for worker in (await workers(self._client, keys, uid)).of_crew):
            self._ended[uid] = now
        is_over = closed_ms >= (float(grace or 0) + READ_SECONDS) * 1000
        if is_over or now - self._ended.get(uid, -math.inf) >= READ_SECONDS:
            self._ended.pop(uid, None)
            return None
        return AGAIN_SECONDS


def policy_of(spec: dict[str, object]) -> str:
    """Returns the fate of the work of a Crew with this spec when it is deleted, as the store keeps it."""
    found: object = spec
    for part in ("workers", "template", "spec", "terminationGracePeriodSeconds"):
        found = found.get(part) if isinstance(found, dict) else None
    grace = found if isinstance(found, int) else GRACE_SECONDS
    return f"{spec.get('deletionPolicy', 'Drain')} {grace}"
