"""The core of a stream: how entries are added, given to the consumers of a group, given again and given up. No I/O.

Nothing is lost when a process dies: what it was given stays pending in its group, and is given to another consumer when
nobody acknowledges or renews it for `retry_after` seconds. What was given `max_deliveries` times becomes a dead letter.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import redis

from watchbill import message_names, names
from watchbill.clock import SYSTEM
from watchbill.connection import outages
from watchbill.errors import InvalidInput, NotFound, Problem, QueueFull, StoreUnavailable
from watchbill.loggers import Logger
from watchbill.messaging import checks, entries
from watchbill.messaging.entries import Message
from watchbill.messaging.steps import Acknowledge, Block, Call, Pause, Run, Script, Settle, Steps
from watchbill.redaction import redact

logger = Logger("watchbill.messaging")

T = TypeVar("T")

ANSWER_SECONDS: Final = 60
"""Seconds for which a script's answer is kept for its own resend. redis-py resends for less."""
PAGE: Final = 1000
"""Entries that one command reads: the server is never held for long."""
LETTERS_AT_ONCE: Final = 100
"""Dead letters that one script replays, for the same reason."""
COUNT_MAX: Final = 1000
"""Messages that one call gives, for the same reason."""
BLOCK_SECONDS: Final = 1.0
"""A consumer that waits asks again so often: for what others left, and whether `stop` was called."""
HEARD_SECONDS: Final = 10.0
"""A consumer that was heard of within so long lives. One that waits for messages is heard of every BLOCK_SECONDS."""
ERROR_MAX: Final = 1000
"""Characters of an error that a dead letter keeps."""
_SEEN_MAX: Final = 100_000
"""Characters of an error that are searched for secrets, so that none is cut in two."""
_ID: Final = re.compile(r"\d{1,20}(-\d{1,20})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Given:
    """A message, and how often it has been given now."""

    message: Message
    deliveries: int


class Stream:
    """A stream as one consumer of it sees it."""

    def __init__(
        self,
        name: str,
        *,
        max_length: int | None = None,
        retry_after: float = 60.0,
        max_deliveries: int = 5,
        key_prefix: str = "",
        now: Callable[[], float] = SYSTEM.monotonic,
    ) -> None:
        self.key = message_names.stream(checks.text(name, "name"), checks.prefix(key_prefix))
        if not message_names.shares_slot(self.key):
            fix = "Leave it out, or use braces as in {tag}."
            raise InvalidInput(Problem(f"{name!r} has a brace that closes nothing", fix, path="name"))
        self.dead = message_names.stream_dead(self.key)
        self._crew = names.crew_of_prefix(key_prefix)
        self._listed = (self._crew.shared_streams, self._crew.meta) if self._crew else ()
        """A crew's streams are listed, and end with it."""
        self.max_length = 0 if max_length is None else checks.whole(max_length, "max_length", least=1, most=10**9)
        self.retry_after = checks.seconds(retry_after, "retry_after")
        self.max_deliveries = checks.whole(max_deliveries, "max_deliveries", least=1, most=10**6)
        self.is_stopped = False
        self._member = ("", "")
        self._now = now
        self._check = _Check(min(self.retry_after / 4, BLOCK_SECONDS))

    def add(self, data: Any, field: str = "data") -> Steps[str]:
        args = (ANSWER_SECONDS, self.max_length, *entries.encode(data, field))
        found = yield Script("stream_add", (self.key, self._answer_key(), *self._listed), args)
        self._check_crew(found)
        if isinstance(found, list):
            fix = "wait until it has done more of them, or take the group away"
            raise QueueFull(f"the stream {self.key!r} is full of what its group {found[0]!r} still has to do: {fix}")
        return str(found)

    def read(self, last_id: str = "0-0", count: int | None = None) -> Steps[list[Message]]:
        _check_ids([last_id], "last_id", "Use one that a message came with, or 0-0 for the beginning.")
        most = None if count is None else checks.whole(count, "count", least=0, most=10**9)
        return (yield from _page(self.key, f"({last_id}", most))

    def create_group(self, group: str) -> Steps[bool]:
        made = yield Script("stream_group", (self.key, *self._listed), (checks.text(group, "group"),))
        self._check_crew(made)
        return bool(made)

    def join(self, group: str, consumer: str) -> None:
        """Makes later calls those of this consumer."""
        self._member = (checks.text(group, "group"), checks.text(consumer, "consumer"))
        if consumer == names.RETURNED:
            fix = "Use another name: this one holds what was handed back."
            raise InvalidInput(Problem(f"{consumer!r} is no name of a consumer", fix, path="consumer"))

    def read_group(self, count: int = 10, wait: float = 0.0) -> Steps[list[Message]]:
        checks.whole(count, "count", least=1, most=COUNT_MAX)
        checks.seconds(wait, "wait", least=0)
        given = yield from self._given(count, wait)
        return [one.message for one in given]

    def acknowledge(self, *ids: str) -> Steps[int]:
        group, _ = self._as_member()
        _check_ids(ids)
        return int((yield Call(("XACK", self.key, group, *ids)))) if ids else 0

    def renew(self, *ids: str) -> Steps[list[str]]:
        group, consumer = self._as_member()
        _check_ids(ids)
        renewed = yield from self._in_group(Script("stream_renew", (self.key,), (group, consumer, *ids)))
        return [str(one) for one in renewed]

    def leave(self, *ids: str, counts: bool = False) -> Steps[bool]:
        """`counts`: the messages were begun, so that their delivery counts."""
        group, consumer = self._as_member()
        _check_ids(ids)
        leaving = Script("stream_leave", (self.key,), (group, consumer, names.RETURNED, int(counts), *ids))
        return not (yield from self._in_group(leaving))

    def dead_letters(self, count: int | None = None) -> Steps[list[Message]]:
        most = None if count is None else checks.whole(count, "count", least=0, most=10**9)
        return (yield from _page(self.dead, "-", most, entries.letter))

    def delete_dead_letters(self, *ids: str) -> Steps[int]:
        _check_ids(ids)
        return int((yield Call(("XDEL", self.dead, *ids)))) if ids else 0

    def replay_dead_letters(self, *ids: str) -> Steps[list[str]]:
        _check_ids(ids)
        replayed: list[str] = []
        for start in range(0, len(ids), LETTERS_AT_ONCE):
            keys = (self.key, self.dead, self._answer_key())
            args = (names.RETURNED, ANSWER_SECONDS, *ids[start : start + LETTERS_AT_ONCE])
            replayed += str((yield Script("stream_replay", keys, args))).split()
        return replayed

    def purge_dead_letters(self) -> Steps[int]:
        return int((yield Call(("XTRIM", self.dead, "MAXLEN", "=", 0))))

    def cleanup(self, groups: Sequence[str] | None = None, *, force: bool = False) -> Steps[dict[str, str]]:
        heard_ms, busy_ms = int(HEARD_SECONDS * 1000), int(self.retry_after * 1000)
        groups = groups if groups is None else checks.texts(groups, "groups")
        options = (heard_ms, busy_ms, names.RETURNED, int(bool(force)), int(groups is not None))
        living = yield Script("stream_cleanup", (self.key, self.dead, *self._listed[:1]), (*options, *(groups or ())))
        return {str(group): str(consumer) for group, consumer in living}

    def process(
        self, handler: Callable[[Message], Any], *, count: int = 10, limit: int | None = None, wait: float | None = None
    ) -> Steps[int]:
        """Does what RedisStream.process_messages says."""
        checks.function(handler, "handler")
        checks.whole(count, "count", least=1, most=COUNT_MAX)
        left = None if limit is None else checks.whole(limit, "limit", least=0, most=10**9)
        seconds = None if wait is None else checks.seconds(wait, "wait", least=0)
        self.is_stopped, done, heard_at = False, 0, self._now()
        while not self.is_stopped and left != 0:
            asked = count if left is None else min(count, left)
            left_of_wait = BLOCK_SECONDS if seconds is None else heard_at + seconds - self._now()
            patience = max(min(BLOCK_SECONDS, left_of_wait), 0.0)
            ends_at = None if seconds is None else heard_at + seconds
            given = yield from self._persist(lambda: self._given(asked, patience), ends_at)  # noqa: B023 - taken here
            if given:
                handled, good = yield from self._handle(given, handler)
                done += good
                left = None if left is None else left - handled
                heard_at = self._now()
            elif seconds is not None and self._now() >= heard_at + seconds:
                break
        return done

    def _handle(self, given: Sequence[Given], handler: Callable[[Message], Any]) -> Steps[tuple[int, int]]:
        """Returns how many messages were handled, and how many of them without an error."""
        handled = good = 0
        done: list[str] = []
        waiting, renewed_at = list(given), self._now()
        while waiting and not self.is_stopped:
            if self._now() - renewed_at >= self.retry_after / 3:
                ids = [one.message["id"] for one in waiting]
                renewed = (yield from self._persist(lambda: self.renew(*ids))) or []  # noqa: B023 - taken here
                waiting = [one for one in waiting if one.message["id"] in renewed]
                renewed_at = self._now()
                continue
            one = waiting.pop(0)
            error = yield Run(handler, one.message)
            handled, good = handled + 1, good + (error is None)
            if error is None:
                done.append(one.message["id"])
                yield from self._done(done, Acknowledge(self.key, self._member[0], done[-1]))
            else:
                yield from self._failed(one, error)
        yield from self._done(done, Settle())
        if waiting:
            ids = [one.message["id"] for one in waiting]
            yield from self._persist(lambda: self.leave(*ids))
        return handled, good

    def _done(self, ids: Sequence[str], step: Acknowledge | Settle) -> Steps[None]:
        """Takes the step, and acknowledges all of `ids` again if one of them has failed."""

        def settle() -> Steps[None]:
            if not (yield step):
                yield from self.acknowledge(*ids)

        yield from self._persist(settle)

    def _failed(self, one: Given, error: Exception) -> Steps[None]:
        said = _said(error)
        is_last = one.deliveries >= self.max_deliveries
        then = "it is a dead letter now" if is_last else f"it is given again in {self.retry_after:g} s"
        logger.warning("the message %s of %r failed; %s: %s", one.message["id"], self.key, then, said)
        if is_last:
            yield from self._persist(lambda: self._bury([one.message["id"]], said))

    def _given(self, count: int, wait: float) -> Steps[list[Given]]:
        group, consumer = self._as_member()
        until = self._now() + wait
        while True:
            if given := (yield from self._ask(count)):
                return given
            seconds = min(until - self._now(), BLOCK_SECONDS, self._check.due_in(self._now()))
            if until <= self._now():
                return []
            block = ("BLOCK", max(int(seconds * 1000), 1), "STREAMS", self.key, ">")
            reading = Block(("XREADGROUP", "GROUP", group, consumer, "COUNT", count, *block), max(seconds, 0.001))
            if found := entries.of_reading((yield from self._in_group(reading))):
                return [Given(entries.message(entry), 1) for entry in found]

    def _ask(self, count: int) -> Steps[list[Given]]:
        """Returns the entries that can be given at once."""
        group, consumer = self._as_member()
        first = self._check.first(self._now())
        limits = (count, int(self.retry_after * 1000), self.max_deliveries, first, ANSWER_SECONDS)
        reading = Script("stream_read", (self.key, self._answer_key()), (group, consumer, *limits))
        found, times, worn, following = yield from self._in_group(reading)
        if first:
            self._check.checked(following, self._now())
        if worn:
            try:
                yield from self._bury([str(one) for one in worn], "nobody acknowledged it")
            except (redis.exceptions.RedisError, OSError) as error:
                if not outages.unavailable(error):
                    raise
                # What was just given must reach the caller. The next check finds the others again.
        return [Given(entries.message(entry), int(n)) for entry, n in zip(found, times, strict=True)]

    def _bury(self, ids: Sequence[str], error: str) -> Steps[None]:
        group, _ = self._as_member()
        buried = yield Script("stream_bury", (self.key, self.dead), (group, error, *ids))
        for one in buried:
            logger.warning("the message %s of %r is a dead letter in %r: %s", one, self.key, self.dead, error)

    def _as_member(self) -> tuple[str, str]:
        if not self._member[0]:
            fix = "Call create_consumer_group(group, consumer) first."
            raise InvalidInput(Problem("this stream's object belongs to no group", fix, path="group"))
        return self._member

    def _in_group(self, step: Script | Block) -> Steps[Any]:
        try:
            return (yield step)
        except redis.exceptions.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            group = self._member[0]
            fix = "create it, from the beginning of the stream, by create_consumer_group"
            raise NotFound(f"the stream {self.key!r} has no group {group!r} (any more): {fix}") from error

    def _persist(self, steps: Callable[[], Steps[T]], ends_at: float | None = None) -> Steps[T | None]:
        """Takes the steps again until the store answers; they must be safe to take twice. Answers None if the store is
        away when `stop` was called, or at `ends_at`: what is pending then is given again later."""
        pause, waited = 0.05, 0.0
        while True:
            try:
                return (yield from steps())
            except (redis.exceptions.RedisError, redis.exceptions.RedisClusterException, OSError) as error:
                known = outages.unavailable(error)
                if known is None:
                    raise
            _notices.log(known, waited, SYSTEM.monotonic())
            if self.is_stopped or (ends_at is not None and self._now() >= ends_at):
                return None
            yield Pause(pause * (0.5 + random.random()))
            waited, pause = waited + pause, min(pause * 2, 0.7)

    def _check_crew(self, answer: Any) -> None:
        if answer == "gone" and self._crew:  # a store that lost its data gets its crews back: so it is worth a retry
            raise StoreUnavailable(f"the stream {self.key!r} can't be made: the store has no crew {self._crew.crew!r}")

    def _answer_key(self) -> str:
        return message_names.stream_answer(self.key, uuid.uuid4().hex)


class _Check:
    """The time and the place of the next check of pending entries: a check is bounded, and the next one begins where it
    ended."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._first = "-"
        self._due = -1e18

    def due_in(self, now: float) -> float:
        return max(self._due - now, 0.0)

    def first(self, now: float) -> str:
        """The id from which to check now; '' not to check."""
        return self._first if now >= self._due else ""

    def checked(self, following: str, now: float) -> None:
        """Notes the id from which to check next; '' if all was checked."""
        self._first = following or "-"
        if not following:
            self._due = now + self._seconds


def _said(error: Exception) -> str:
    """Returns what a handler raised as it is kept and logged: without secrets, and text that Redis takes. Runs the
    error's own code, but never raises what that does."""
    try:
        text = str(error)
    except Exception as another:
        text = f"its text can't be read: {type(another).__name__}"
    said = redact(f"{type(error).__name__}: {text}"[:_SEEN_MAX])
    return said[:ERROR_MAX].encode("utf-8", "replace").decode()


def _check_ids(ids: Sequence[str], field: str = "id", fix: str = "Use one that a message came with.") -> None:
    for one in ids:
        is_id = isinstance(one, str) and _ID.fullmatch(one) and all(int(part) < 2**64 for part in one.split("-"))
        if not is_id:
            raise InvalidInput(Problem(f"{one!r} is no id of a message", fix, path=field))


def _page(
    key: str, first: str, most: int | None, shown: Callable[[Sequence[Any]], Message] = entries.message
) -> Steps[list[Message]]:
    found: list[Message] = []
    while most is None or len(found) < most:
        asked = PAGE if most is None else min(PAGE, most - len(found))
        page = yield Call(("XRANGE", key, first, "+", "COUNT", asked))
        found += [shown(entry) for entry in page]
        if len(page) < asked:
            break
        first = f"({page[-1][0]}"
    return found


_notices = outages.Notices()
