"""Finding the store: --redis-url or --state, then the environment, then ./.watchbill/. Says what was tried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from watchbill.cli.options import contradiction
from watchbill.errors import InvalidInput, NoStore, Problem, StoreRefuses, StoreUnavailable

if TYPE_CHECKING:
    from watchbill.connection.url import Target
    from watchbill.settings import Settings

STATE: Final = Path(".watchbill")
PATIENCE_SECONDS: Final = 6.0
"""How long a store may take for its first answer. redis-py by itself would try for four times as long."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the store is: one of `url` and `folder`, or neither for one that leaves nothing behind."""

    url: str | None = None
    folder: Path | None = None
    tried: str = ""
    """How it was found, for messages."""
    options: tuple[str, ...] = ()
    """What another command must be given to find the same store. Never a secret."""


def place(redis_url: str | None, state: Path | None, settings: Settings, *, make: bool = False) -> Place:
    """Where the store is. `make`: a private one may be made there. Raises NoStore, naming what was tried."""
    if redis_url is not None and state is not None:
        raise contradiction("--redis-url", "--state", "A store has a URL, or is a private one in a folder.")
    if redis_url is not None:
        from watchbill.connection.url import without_secret

        shown = ("--redis-url", redis_url) if without_secret(redis_url) == redis_url else ()
        return Place(url=redis_url, tried="--redis-url", options=shown)
    if state is not None:
        if not make and not state.is_dir():
            raise NoStore(
                f"there is no store in {str(state)!r} (--state). Start one: watchbill run FILE --state {state}"
            )
        return Place(folder=state, tried="--state", options=("--state", str(state)))
    if settings.redis_url:
        return Place(url=settings.redis_url, tried="WATCHBILL_REDIS_URL (--redis-url was not given)")
    if not make and not STATE.is_dir():
        raise NoStore(
            "no store was found: --redis-url was not given, WATCHBILL_REDIS_URL is not set, and there is no "
            f"./{STATE}/ here ({str(Path.cwd())!r}). Name one, or start a private one: watchbill run FILE"
        )
    return Place(folder=STATE, tried=f"./{STATE}/")


@asynccontextmanager
async def opened(where: Place, on_owner: Callable[[], Awaitable[None]] | None = None) -> AsyncIterator[Target]:
    """The store, which answers. A private one is started, or attached to where it runs already.

    Raises NoStore, StoreUnavailable, InvalidInput (a URL that is none).
    """
    if where.url is not None:
        yield await _reach(where.url, where.tried)
        return
    from watchbill.connection.url import parse
    from watchbill.embedded import EmbeddedStore

    async with await EmbeddedStore.open(where.folder, on_owner=on_owner) as store:
        yield parse(store.url)


async def _reach(url: str, tried: str) -> Target:
    import redis

    from watchbill import connection
    from watchbill.connection import outages
    from watchbill.connection.url import parse, without_secret

    shown = without_secret(url)
    target = parse(url)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), connection.connected(target) as client:
            with outages.translated():
                await client.ping()
        return target
    except InvalidInput:
        raise
    except ValueError:  # its text may quote a part of a password
        reason, fix = f"{shown!r} is not the URL of a Redis or Valkey", "Use redis://HOST:PORT/DB."
        raise InvalidInput(Problem(reason, fix, path="--redis-url")) from None
    except TimeoutError:
        reason = f"no answer within {PATIENCE_SECONDS:.0f} s"
        if target.tls:
            reason += ". rediss:// speaks TLS: if that port doesn't, write redis://"
        raise StoreUnavailable(f"can't reach the store at {shown!r}, from {tried}: {reason}") from None
    except StoreUnavailable as error:
        cause = error.__cause__ or error
        _check_database(shown, tried, cause)
        if isinstance(cause.__cause__, redis.exceptions.AuthenticationError):  # redis-py wraps it when it connects
            raise _refused(shown, tried, cause) from error
        raise StoreUnavailable(f"can't reach the store at {shown!r}, from {tried}: {cause}") from error
    except (StoreRefuses, redis.exceptions.RedisError) as error:
        _check_database(shown, tried, error)
        raise _refused(shown, tried, error) from error


def _check_database(shown: str, tried: str, error: BaseException) -> None:
    """Raises InvalidInput where the store has no database of the URL's number."""
    if "DB index" in str(error):
        fix = "Use a lower number behind the slash, or none."
        raise InvalidInput(Problem(f"the store at {shown!r} has no such database", fix, path=tried)) from error


def _refused(shown: str, tried: str, error: BaseException) -> NoStore:
    return NoStore(f"the store at {shown!r}, from {tried}, refuses us: {error}. Check user and password")
