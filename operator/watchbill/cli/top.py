"""`top`: a live view of crews: their tasks, workers and rates, and the tasks that run longest."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from watchbill.cli import keyboard, output
from watchbill.cli.options import Output, refuse_together
from watchbill.cli.stores import StoreOptions, with_store
from watchbill.terminal import one_line

if TYPE_CHECKING:
    import redis.asyncio
    from rich.text import Text

    from watchbill.cli.overview import Shot
    from watchbill.cli.stores import Place
    from watchbill.names import CrewKeys
    from watchbill.store.figures import Figures

_now: Final = time.monotonic  # noqa: TID251 - a person looks on

LONGEST: Final = 50
"""Maximum of running tasks of one crew that are shown."""
SILENT_SECONDS: Final = 3.0
"""Seconds without an answer after which the screen says so."""
SHARE: Final = 5
"""The pause between two readings is this many times as long as one takes: thousands of crews cost the store little."""
REST_SECONDS: Final = 5.0
"""Maximum of that pause in seconds: an outage may have made the reading long."""


@with_store()
def top(
    store: StoreOptions,
    crews: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CREW",
            help="Crews: NAME or NAMESPACE/NAME. One crew is shown in full. Default: all.",
            show_default=False,
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option("--interval", "-i", metavar="SECONDS", min=0.2, help="Seconds between two readings.")
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Read twice, an interval apart, print one table, and exit.")
    ] = False,
    everywhere: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Show the crews of all namespaces.")
    ] = False,
) -> int:
    """Show the work of crews, the busiest first, until q or Ctrl-C.

    Below are the results that crews deliver, and the destinations that fail, if there are any.

    With --once, with --output json or yaml, or if stdout is no terminal, the table is printed once. DONE/S and
    FAILED/S are tasks and steps per second that ended since the reading before.
    """
    from watchbill.cli import environment, process

    refuse_together({("--all-namespaces", "CREW"): (everywhere, crews, "Name the crews, or ask for all.")})
    settings = environment.read()
    where = store.place(settings)
    chosen = store.namespace or settings.namespace
    live = not once and store.form is Output.TEXT and _is_terminal()

    async def work() -> int:
        async with _sampler(where, crews or [], None if everywhere else chosen, chosen) as sampler:
            if live:
                await _live(sampler, interval, where)
            else:
                await _once(sampler, interval, store.form)
        return 0

    async def heeding(signals: process.Signals) -> int:
        try:
            return await signals.guard(work())
        except process.Interrupted as error:
            if live and error.number == signal.SIGINT:  # the usual way to end it
                return 0
            raise

    return process.run(heeding)


# ---------------------------------------------------------------- looking


class Sampler:
    """Reads the figures of crews repeatedly, and remembers the reading before."""

    def __init__(
        self, redis: redis.asyncio.Redis, crews: Callable[[], Awaitable[Sequence[CrewKeys]]], single: bool
    ) -> None:
        """`crews`: returns the crews, at each reading; `single`: there is one crew, which is shown in full."""
        self._redis = redis
        self._crews = crews
        self._single = single
        self._before: dict[str, Figures] = {}

    async def read(self) -> Shot:
        """Reads the figures once. Raises StoreUnavailable."""
        from watchbill.cli.overview import Row, Shot
        from watchbill.store import circuits, figures

        crews = await self._crews()
        since = {crew: before.ended.last_id if before.ended else "0-0" for crew, before in self._before.items()}
        now = {crew: found async for crew, found in figures.each(self._redis, crews, since) if found is not None}
        deliver = [keys for keys in crews if keys.crew in now and now[keys.crew].deliveries]
        now_ms = max((found.now_ms for found in now.values()), default=0)
        failing = dict(zip(deliver, await circuits.failing(self._redis, deliver, now_ms), strict=True))
        fails = {keys.crew: tuple(names) for keys, names in failing.items()}
        rows = [
            Row(crew, found, *rates(self._before.get(crew), found), fails.get(crew, ())) for crew, found in now.items()
        ]
        self._before = now
        rows.sort(key=lambda row: (-row.load, -(row.done or 0), -row.now.workers, row.crew))
        if not self._single or not rows:
            return Shot(tuple(rows))
        return Shot(
            tuple(rows),
            tuple(await figures.incarnations(self._redis, crews[0])),
            tuple(await figures.running_longest(self._redis, crews[0], LONGEST)),
        )


def rates(before: Figures | None, now: Figures) -> tuple[float | None, float | None]:
    """(completed, failed) tasks and steps per second between two readings; None if the rate is unknown."""
    if before is None or now.now_ms <= before.now_ms:
        return None, None
    results = now.ended.results if now.ended else 0
    ended = results - (before.ended.results if before.ended else 0)
    if ended < 0:  # the store was flushed
        return None, None
    if now.ended is None or not now.ended.seen:
        return 0.0, 0.0
    per_second = ended / now.ended.seen / (now.now_ms - before.now_ms) * 1000
    return now.ended.completed * per_second, now.ended.failed * per_second


@asynccontextmanager
async def _sampler(where: Place, named: Sequence[str], namespace: str | None, default: str) -> AsyncIterator[Sampler]:
    """A sampler of the store, once it has answered. Raises NotFound for a missing crew."""
    from watchbill import connection
    from watchbill.cli import stores
    from watchbill.client import Client

    async with (
        stores.opened(where) as target,
        connection.connected(target) as redis,
        Client(target, namespace=default) as client,
    ):
        for name in named:
            await client.figures(name)
        fixed = [client.keys(name) for name in dict.fromkeys(named)]

        async def crews() -> Sequence[CrewKeys]:
            return fixed or await _listed(redis, namespace)

        yield Sampler(redis, crews, len(fixed) == 1)


async def _listed(redis: redis.asyncio.Redis, namespace: str | None) -> list[CrewKeys]:
    """The recorded crews of one namespace, or of all."""
    from watchbill.connection import outages
    from watchbill.errors import InvalidInput
    from watchbill.names import CrewKeys, crew_tenants
    from watchbill.store.crews import CrewRedis

    if namespace is not None:
        namespaces = [namespace]
    else:
        with outages.translated():
            namespaces = sorted(map(str, await redis.smembers(crew_tenants())))
    found = []
    for each in namespaces:
        try:
            names = await CrewRedis(client=redis, tenant=each, strict=True).list_crews()
        except InvalidInput:  # keys of another program
            if namespace is not None:
                raise
            continue
        found += [CrewKeys(each, name) for name in names]
    return found


# ---------------------------------------------------------------- showing


async def _once(sampler: Sampler, interval: float, form: Output) -> None:
    from watchbill.cli import overview

    await sampler.read()
    await asyncio.sleep(interval)
    shot = await sampler.read()
    if form is not Output.TEXT:
        output.write(overview.data(shot), form)
    elif not shot.rows:
        output.say("there are no crews")
    else:
        overview.plain(shot)


class Screen:
    """The content of the terminal: the last reading, or the outage of the store."""

    def __init__(self, sampler: Sampler, interval: float, where: str) -> None:
        self._sampler = sampler
        self._interval = interval
        self._where = where
        self._shot: Shot | None = None
        self._trouble = ""
        self._answered_at = self._asked_at = _now()
        self.changed = asyncio.Event()

    async def refresh(self) -> None:
        """Reads the figures without end, also during an outage of the store."""
        from watchbill.errors import StoreUnavailable

        while True:
            began = self._asked_at = _now()
            pause = self._interval
            try:
                self._shot, self._trouble = await self._sampler.read(), ""
                self._answered_at = _now()
                pause = max(pause, min(SHARE * (self._answered_at - began), REST_SECONDS))
            except StoreUnavailable as error:
                self._trouble = str(error)
            self._asked_at = 0.0
            self.changed.set()
            await asyncio.sleep(pause)

    def draw(self, width: int, height: int) -> Text:
        from watchbill.cli import overview

        title = f"watchbill top   {output.clock(output.now())}   {self._where}   every {self._interval:g} s, q quits"
        return overview.screen(title, self._said(), self._shot, width, height)

    def _said(self) -> str:
        now = _now()
        for_seconds = output.seconds(now - self._answered_at)
        if self._trouble:
            return f"no answer from the store for {for_seconds}: {one_line(self._trouble)}"
        if self._asked_at and now - self._asked_at > SILENT_SECONDS:
            return f"no answer from the store for {for_seconds}"
        return ""


async def _live(sampler: Sampler, interval: float, where: Place) -> None:
    from rich.console import Console
    from rich.control import Control

    from watchbill.cli import process
    from watchbill.connection.url import without_secret

    shown = Screen(sampler, interval, without_secret(where.url) if where.url else str(where.folder))
    over = asyncio.Event()
    console = Console()
    refreshing = asyncio.create_task(shown.refresh())
    loop = asyncio.get_running_loop()

    def wake() -> None:
        shown.changed.set()

    def pressed(keys: bytes) -> None:
        if not keys or b"q" in keys or b"Q" in keys:
            over.set()
        wake()

    refreshing.add_done_callback(lambda _: wake())
    loop.add_signal_handler(signal.SIGWINCH, wake)
    try:
        with _keys(pressed), console.screen(hide_cursor=True) as screen:
            while not over.is_set() and not refreshing.done():
                console.control(Control.home())
                screen.update(shown.draw(console.width, console.height))
                timer = loop.call_later(1.0, wake)
                await shown.changed.wait()
                timer.cancel()
                shown.changed.clear()
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        if refreshing.done():
            refreshing.result()
        await process.end(refreshing)


@contextmanager
def _keys(pressed: Callable[[bytes], None]) -> Iterator[None]:
    """Calls `pressed` with the keys that are pressed, and restores the terminal afterwards."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd, termios.TCSANOW)
        now = termios.tcgetattr(fd)
        now[6][termios.VSUSP] = b"\0"  # Ctrl-Z would leave the terminal as it is now
        termios.tcsetattr(fd, termios.TCSANOW, now)
        with keyboard.heard(pressed):
            yield
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
