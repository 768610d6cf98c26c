"""The meaning of the store's errors, and waiting for the store. Only this module decides whether waiting may help."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

import redis

from watchbill.clock import SYSTEM, Clock
from watchbill.errors import StoreRefuses, StoreUnavailable, sentence
from watchbill.loggers import Logger

logger = Logger("watchbill.connection.outages")

T = TypeVar("T")

LOG_SECONDS: Final = 30.0
"""The log says at most once in so long that callers wait for the store."""

_TRANSIENT: Final = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.RedisClusterException,
    OSError,
)
_TRANSIENT_CODES: Final = (
    "LOADING",
    "READONLY",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "NOREPLICAS",
    "OOM",
    "MISCONF",
    "BUSY",
    "UNBLOCKED",
)
_OF_PIPELINE: Final = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: (?:\(['\"])?", re.DOTALL)
"""redis-py writes this before the error of one command of several."""
_RIGHTS: Final = "Give this user the rights that docs/redis.md lists"
_REFUSALS: Final[Mapping[str, str]] = {
    "ACL failure in script": _RIGHTS,
    "The user executing the script can't": _RIGHTS,
    "cluster support disabled": "It is no Redis Cluster: use redis://…",
    "CERTIFICATE_VERIFY_FAILED": "Name who vouches for it with ssl_ca_certs=/path/ca.crt in its URL",
}
"""Part of an error's text → the advice."""


def unavailable(error: BaseException) -> StoreUnavailable | None:
    """Returns the error as StoreUnavailable if waiting may help, else None."""
    if refused(error):
        return None
    text = str(error)
    if isinstance(error, _TRANSIENT) or (
        isinstance(error, redis.exceptions.ResponseError)
        and _OF_PIPELINE.sub("", text, count=1).split(" ", 1)[0] in _TRANSIENT_CODES
    ):
        if "refused" in text.lower():
            return StoreUnavailable(f"no store answers there: {sentence(text)} Start one, or correct its address")
        return StoreUnavailable(f"the store doesn't answer as it should: {text or type(error).__name__}")
    return None


def refused(error: BaseException) -> StoreRefuses | None:
    """Returns the error as StoreRefuses if the store refuses us, else None."""
    if isinstance(error, redis.exceptions.AskError):  # MOVED, too
        what = "Its URL says that it is one server, and it is a Redis Cluster: use redis+cluster://…"
    elif isinstance(error, redis.exceptions.NoPermissionError):
        what = _RIGHTS
    elif any(isinstance(e, redis.exceptions.AuthenticationError) for e in (error, error.__cause__)):
        what = "Check user and password in its URL"  # redis-py wraps it when it connects
    else:
        what = next((fix for part, fix in _REFUSALS.items() if part in str(error)), "")
    return StoreRefuses(f"the store refuses us: {sentence(error)} {what}") if what else None


@contextmanager
def translated() -> Iterator[None]:
    """Raises redis-py's errors as StoreUnavailable where waiting may help, and as StoreRefuses where somebody must
    change the URL or our rights. Other errors pass."""
    try:
        yield
    except (redis.exceptions.RedisError, redis.exceptions.RedisClusterException, OSError) as error:
        if known := unavailable(error) or refused(error):
            raise known from error
        raise


class Notices:
    """Logs at most once in LOG_SECONDS that callers wait for the store, however many wait."""

    def __init__(self) -> None:
        self._logged_at = -math.inf

    def log(self, error: StoreUnavailable, waited: float, now: float) -> None:
        """Logs the error if a caller has waited for more than a second, and the last line is old enough."""
        if waited > 1 and now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            logger.warning("waiting for the store, for %.0f s now: %s", waited, error)


_NOTICES: Final = Notices()


class Persist(Protocol):
    """The type of `persist` with its bounds given."""

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T: ...


async def persist(
    call: Callable[[], Awaitable[T]],
    *,
    until: Callable[[], bool] | None = None,
    on_wait: Callable[[float], None] | None = None,
    notices: Notices = _NOTICES,
    clock: Clock = SYSTEM,
) -> T:
    """Calls until the store answers: waits 0.05 … 1 s with jitter in between, for as long as `until` is false.

    `call` must be safe to send twice. Raises StoreUnavailable once `until` is true; other errors at once.
    """
    delay = 0.05
    began: float | None = None  # only what fails is waited for: a call may listen for hours before that
    while True:
        try:
            with translated():
                return await call()
        except StoreUnavailable as error:
            if until is not None and until():
                raise
            if on_wait is not None:
                on_wait(delay)
            now = clock.monotonic()
            began = now if began is None else began
            notices.log(error, now - began, now)
            await clock.sleep(delay * (0.5 + random.random()))
            delay = min(delay * 2, 0.7)
