"""Is a failed task tried again, and after how long? Pure: what is random is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LONGEST_SECONDS: Final = 3600.0
"""The longest pause that grows by itself."""
ASKED_MAX_SECONDS: Final = 86_400.0
"""The longest pause that a failure may ask for."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The facts about a failure that decide on a retry."""

    worth_retrying: bool = True
    given_up: bool = False
    """The agent itself says that no attempt will ever help; else one may, once somebody has mended the cause."""
    retry_after_seconds: float | None = None
    """Seconds that the failure itself asks to wait."""
    later_ms: int | None = None
    """The task may not go on yet, and the attempt doesn't count: milliseconds until it does, or the time of that by the
    store's clock (ms since 1970), negated. None: it has failed."""
    is_of_agent: bool = False
    """The agent may do nothing now, by a budget; another one may."""


def pause(failure: Failure, attempt: int, *, max_attempts: int, base_seconds: float, chance: float) -> float | None:
    """Seconds until the next attempt; None: there is none.

    `attempt` is the one that failed, from 1. `chance` is random in [0, 1): the pause is anything up to
    base · 2^(attempt - 1) ("full jitter"), so that tasks that failed together don't come back together. What the
    failure asks for is kept to, and spread likewise.
    """
    if not failure.worth_retrying or attempt >= max_attempts:
        return None
    spread = chance * min(base_seconds * 2.0 ** min(attempt - 1, 32), LONGEST_SECONDS)
    if failure.retry_after_seconds is None:
        return spread
    return min(max(failure.retry_after_seconds, 0.0), ASKED_MAX_SECONDS) + spread
