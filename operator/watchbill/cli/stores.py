"""Finds the store: --redis-url or --state, then the environment, then ./.watchbill/. Messages name what was tried."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec

from watchbill import init
from watchbill.cli.options import (
    NamespaceOption,
    Output,
    OutputOption,
    RedisUrlOption,
    StateOption,
    add,
    contradiction,
)
from watchbill.errors import InvalidInput, NoStore, Problem, StoreRefuses, StoreUnavailable, sentence

if TYPE_CHECKING:
    from watchbill.client import Client
    from watchbill.connection.url import Target
    from watchbill.settings import Settings

P = ParamSpec("P")

STATE: Final = Path(".watchbill")
PATIENCE_SECONDS: Final = 6.0
"""Seconds for the first answer of a store. redis-py by itself would try for four times as long."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a store: `url` or `folder`, or neither for a private store that is removed at the end."""

    url: str | None = None
    folder: Path | None = None
    tried: str = ""
    """The source of the place, for messages."""
    options: tuple[str, ...] = ()
    """The options with which another command finds the same store. They contain no secret."""


def place(redis_url: str | None, state: Path | None, settings: Settings, *, make: bool = False) -> Place:
    """The place of the store. `make`: a private one may be made there. Raises NoStore, which names what was tried."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """The options of a command that uses a store."""

    redis_url: str | None
    state: Path | None
    namespace: str | None
    form: Output = Output.TEXT

    def place(self, settings: Settings, *, make: bool = False) -> Place:
        """The place of the store. `make`: a private one may be made there. Raises NoStore, InvalidInput."""
        return place(self.redis_url, self.state, settings, make=make)

    def run(self, work: Callable[[Client], Awaitable[int]], *, make: bool = False, traced: bool = False) -> int:
        """Finds and opens the store, and calls `work` with a client of it. Returns the exit code.

        `make`: a private store may be made. `traced`: what is submitted has a span. A signal cancels `work`.
        """
        return self.run_on(lambda client, _: work(client), make=make, traced=traced)

    def run_on(
        self, work: Callable[[Client, Target], Awaitable[int]], *, make: bool = False, traced: bool = False
    ) -> int:
        """Does the same as `run` with a `work` that takes the store, too."""
        from watchbill.cli import environment, process
        from watchbill.client import Client

        settings = environment.read(traced=traced)
        where = self.place(settings, make=make)

        async def connected() -> int:
            async with (
                opened(where) as target,
                Client(target, namespace=self.namespace or settings.namespace) as client,
            ):
                return await work(client, target)

        return process.run_guarded(connected())


def with_store(*, output: bool = True) -> Callable[[Callable[Concatenate[StoreOptions, P], int]], Callable[..., int]]:
    """Gives a command the options --redis-url, --state, --namespace and --output, which it takes as StoreOptions.

    `output`: False for a command that writes no value, and so has no --output.
    """
    added: dict[str, tuple[Any, Any]] = {
        "redis_url": (RedisUrlOption, None),
        "state": (StateOption, None),
        "namespace": (NamespaceOption, None),
    }
    if output:
        added["form"] = (OutputOption, Output.TEXT)

    def decorate(command: Callable[Concatenate[StoreOptions, P], int]) -> Callable[..., int]:
        @functools.wraps(command)
        def wrapped(*args: Any, **kwargs: Any) -> int:
            init.import_redis()
            return command(StoreOptions(**{name: kwargs.pop(name) for name in added}), *args, **kwargs)

        add(wrapped, command, added, without="store")
        return wrapped

    return decorate


@asynccontextmanager
async def opened(where: Place, on_owner: Callable[[], Awaitable[None]] | None = None) -> AsyncIterator[Target]:
    """Opens the store, and waits for an answer. A private one is started, or attached to if it runs already.

    Raises NoStore, StoreUnavailable, InvalidInput (the URL is invalid).
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
    from watchbill.clock import Patience
    from watchbill.connection import outages
    from watchbill.connection.url import parse, without_secret

    shown = without_secret(url)
    target = parse(url)
    try:
        async with Patience(PATIENCE_SECONDS), connection.connected(target) as client:
            with outages.translated():
                await client.ping()
        return target
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
    """Raises InvalidInput if the store has no database of the URL's number."""
    if "DB index" in str(error):
        fix = "Use a lower number behind the slash, or none."
        raise InvalidInput(Problem(f"the store at {shown!r} has no such database", fix, path=tried)) from error


def _refused(shown: str, tried: str, error: BaseException) -> NoStore:
    return NoStore(
        f"the store at {shown!r}, from {tried}, refuses the connection: {sentence(error)} Check user and password"
    )
