"""A crew's dead letters: tasks that failed for good or killed their workers, and entries that can't be read.

They are bounded by number and age (lib_holders.lua says by which); what is trimmed is counted in `meta`. Every call is
safe to send twice, and raises CrewGone when the crew was deleted or replaced.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import redis.asyncio

from watchbill.connection import outages
from watchbill.errors import NotFound
from watchbill.names import STEP_MARK, CrewKeys, split_step_id
from watchbill.plan import flow, prompts
from watchbill.records import CrewDefinition
from watchbill.store import definitions, packed, refusals, runs
from watchbill.store.control import Item, call
from watchbill.store.queue import BATCH, crew_gone
from watchbill.tasks import RUN_TERMINAL, Usage

Outcome = Literal["replayed", "missing", "taken", "expired"]
"""The outcome of a replay. `missing`: it was replayed, purged or trimmed before; `taken`: its id has other work by now;
`expired`: nothing says any more what it was to do."""
Kept = Literal["", "current", "submitted", "unchanged"]
"""`unchanged`: the crew's current definition is the one that the run was submitted with."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The outcome for a letter that was to be replayed."""

    outcome: Outcome
    definition: Kept = ""
    """With which definition it runs: the crew's current one, the one that its run was submitted with, or both."""
    why: str = ""
    """The reason why it isn't the one that was asked for."""


@dataclass(frozen=True, slots=True)
class _Way:
    """The way in which a letter is replayed."""

    digest: str = ""
    parallel: int = 0
    definition: Kept = "current"
    why: str = ""


_OWN: Final = "a task of its own always runs with the crew's current definition"
_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One of them."""

    id: str
    """The letter's own: when it was written (ms since 1970), and a number."""
    task_id: str
    """Empty for an entry that names none."""
    reason: str
    agent: str = ""
    attempts: int = 0
    worker: str = ""
    """The incarnation that had it last."""
    error: str = ""
    """The last failure with its traceback."""
    entry: str = ""
    """Id of the stream's entry."""
    usage: Usage | None = None
    """Usage of all attempts; None: nothing that is known."""
    priority: int = 0
    prompt: str | None = None
    """The prompt of the task, where the letter carries it."""
    raw: dict[str, str] | None = None
    """The fields of an entry that couldn't be read, or the first 64 KiB of them; what is no text, as base64:…"""
    raw_bytes: int | None = None
    """The size of such an entry, where `raw` is not all of it."""

    @property
    def at(self) -> datetime:
        """The time of its death, by the server's clock."""
        return datetime.fromtimestamp(int(self.id.partition("-")[0]) / 1000, UTC)

    @property
    def replayable(self) -> bool:
        """False for what was never readable."""
        return bool(self.task_id) and self.raw is None


async def letters(client: redis.asyncio.Redis, keys: CrewKeys) -> AsyncIterator[DeadLetter]:
    """All of them, newest first."""
    before = "+"
    while True:
        with outages.translated():
            page: list[Any] = await client.xrevrange(keys.dead, before, "-", count=_PAGE) or []
        for entry, fields in page:
            yield _letter(entry, fields)
        if len(page) < _PAGE:
            return
        before = f"({page[-1][0]}"


async def find(client: redis.asyncio.Redis, keys: CrewKeys, wanted: str) -> DeadLetter:
    """The newest letter of this task, or the one of this id. Raises NotFound."""
    async for letter in letters(client, keys):
        if wanted in (letter.id, letter.task_id):
            return letter
    raise NotFound(f"crew {keys.crew!r} has no dead letter of {wanted!r} (they are kept for seven days)")


async def replay(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    chosen: Sequence[DeadLetter],
    *,
    max_queued: int,
    as_submitted: bool = False,
) -> list[Replayed]:
    """Tries these tasks again, with all their attempts. A step goes on within its run, and the run with it: once it has
    ended, with the crew's current definition if that has the same plan, unless `as_submitted`.

    Raises Closed, and QueueFull: of those before some may be replayed; the same call may be made again.
    """
    told: dict[str, Replayed] = {}
    able = [letter for letter in chosen if letter.replayable]
    size = max(min(BATCH, max_queued), 1)  # more than the bound would never find room
    while able:
        part = able[:size]
        ways = await _ways(client, keys, part, as_submitted=as_submitted)
        names = list(keys.fixed)
        args: list[Any] = [uid, keys.crew, max_queued, len(part)]
        for letter, way in zip(part, ways, strict=True):
            names += Item(letter.task_id, letter.agent, way.digest).keys(keys)
            args += (letter.task_id, letter.id, way.digest, way.parallel)
        reply = await call(client, keys, "replay", names, args)
        if reply[0] == "full":
            raise refusals.queue_full(keys, max_queued)
        if reply[0] == "closed":
            raise refusals.closed(keys, reply[1])
        again = []  # their runs, or the crew, have changed since we looked
        for letter, way, outcome in zip(part, ways, reply[1:], strict=True):
            if outcome == "changed":
                again.append(letter)
            else:
                done = outcome == "replayed"
                told[letter.id] = Replayed(outcome, way.definition if done else "", way.why if done else "")
        able = again + able[size:]
    return [told.get(letter.id, Replayed("expired")) for letter in chosen]


async def purge(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, ids: Iterable[str]) -> int:
    """Removes letters for good. Returns how many there were."""
    wanted = list(ids)
    gone = 0
    for start in range(0, len(wanted), BATCH):
        gone += int((await call(client, keys, "purge", keys.fixed, [uid, *wanted[start : start + BATCH]]))[1])
    return gone


def matching(
    *,
    agent: str | None = None,
    reason: str | None = None,
    before: datetime | None = None,
    after: datetime | None = None,
) -> Callable[[DeadLetter], bool]:
    """A filter: of this agent, with this text in reason or error, that died before or after this time."""

    def matches(letter: DeadLetter) -> bool:
        return (
            (agent is None or letter.agent == agent)
            and (reason is None or reason.lower() in f"{letter.reason}\n{letter.error}".lower())
            and (before is None or letter.at < before)
            and (after is None or letter.at > after)
        )

    return matches


async def _ways(
    client: redis.asyncio.Redis, keys: CrewKeys, part: Sequence[DeadLetter], *, as_submitted: bool
) -> list[_Way]:
    """With what definition each is to run. Raises CrewGone."""
    runs_of = {letter.id: step[0] for letter in part if (step := split_step_id(letter.task_id))}
    known = list(dict.fromkeys(runs_of.values()))
    found: dict[str, _Way] = {}
    if known:
        try:
            current = await definitions.current(client, keys)
        except NotFound:
            raise crew_gone(keys) from None
        with outages.translated():
            async with client.pipeline(transaction=False) as pipe:
                for run_id in known:
                    pipe.hmget(keys.run(run_id), ["def", "state", "inputs"])
                records = await pipe.execute()
        for run_id, (digest, state, inputs) in zip(known, records, strict=True):
            why = ""
            if digest and digest != current.digest and not as_submitted:
                why = "its run still goes on with it"
                if state in RUN_TERMINAL:
                    why = await _unfit(client, keys, run_id, current.definition, str(inputs or "").split())
            if not digest or digest == current.digest or as_submitted or why:
                which: Kept = "unchanged" if digest == current.digest else "submitted"
                found[run_id] = _Way(str(digest or ""), definition=which, why=why)
            else:
                found[run_id] = _Way(current.digest, current.definition.max_parallel_tasks)
    own = _Way(why=_OWN if as_submitted else "")
    return [found[runs_of[letter.id]] if letter.id in runs_of else own for letter in part]


async def _unfit(
    client: redis.asyncio.Redis, keys: CrewKeys, run_id: str, crew: CrewDefinition, inputs: Sequence[str]
) -> str:
    """Returns why this run can't go on with another definition; empty if it can, because its plan is the same."""
    try:
        found = (await runs.status(client, keys, run_id)).steps
    except NotFound:
        return "its run is gone"
    planned = {step.name: (step.agent, set(step.after)) for step in flow.steps(crew)}
    added = {s.name for s in found if s.kind == "delegated" or STEP_MARK in s.name} - planned.keys()
    first = {s.name for s in found} - added
    began = {s.name: (s.agent, set(s.after) & first) for s in found if s.name in first}
    if dropped := sorted(began.keys() - planned.keys()):
        return f"the current one has no step {', '.join(map(repr, dropped))}"
    if new := sorted(planned.keys() - began.keys()):
        return f"the current one has steps that the run has not: {', '.join(map(repr, new))}"
    if moved := sorted(name for name in began if began[name] != planned[name]):
        return f"in the current one these wait for other steps: {', '.join(map(repr, moved))}"
    missing, _ = prompts.check_inputs(crew, inputs)
    return "; ".join(problem.reason for problem in missing)


def _letter(entry: str, fields: dict[str, str]) -> DeadLetter:
    raw = {name.removeprefix("raw:"): _shown(value) for name, value in fields.items() if name.startswith("raw:")}
    return DeadLetter(
        id=str(entry),
        task_id=_shown(fields.get("id", "")),
        reason=_shown(fields.get("reason", "")),
        agent=_shown(fields.get("agent", "")),
        attempts=_number(fields.get("attempt", "")),
        worker=_shown(fields.get("worker", "")),
        error=_shown(fields.get("error", "")),
        entry=_shown(fields.get("entry", "")),
        usage=packed.usage(fields.get("spent", "")),
        priority=_number(fields.get("class", "")),
        prompt=_prompt(fields.get("payload")),
        raw=raw or None,
        raw_bytes=_number(fields.get("raw_bytes", "")) or None,
    )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 20 else 0


def _prompt(payload: str | None) -> str | None:
    """Returns the prompt, where it can be read."""
    try:
        task = json.loads(payload or "null")
    except (ValueError, RecursionError):
        return None
    prompt = task.get("prompt") if isinstance(task, dict) else None
    return _shown(prompt) if isinstance(prompt, str) else None


def _shown(value: str) -> str:
    """Text as it is; bytes that are none, as base64."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return "base64:" + base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
    return value
