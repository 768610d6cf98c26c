"""Runs a crew in this process, from the start of its store to the end of its server. It leaves nothing running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from redis.asyncio import Redis

from watchbill import connection
from watchbill.api import Crew
from watchbill.cli import beats, environment, failures, hints, output, progress, serving, stores
from watchbill.cli.options import Output
from watchbill.cli.process import Interrupted, Signals, end
from watchbill.cli.serving import drain
from watchbill.client import Client, Result
from watchbill.connection.url import Target
from watchbill.errors import InvalidInput, NotFound, Problem, WatchbillError
from watchbill.event_types import TownEvent
from watchbill.local import LocalCrews, Manifests, place_of, target_of
from watchbill.names import CrewKeys, split_step_id
from watchbill.plan.models import with_model
from watchbill.records import CrewDefinition, from_crew, to_crew
from watchbill.settings import Settings
from watchbill.store import definitions, runs
from watchbill.store.events import BEGINNING
from watchbill.tasks import RUN_TERMINAL, TERMINAL, RunState, TaskResult, TaskState

DELIVER_SECONDS: Final = 10.0
"""Seconds that `watchbill run` waits for deliveries that are due, once it has printed the result."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The arguments of `watchbill run`, all of them checked."""

    manifests: Manifests
    place: stores.Place
    crew: str
    """`namespace/name` of the crew that the prompt is for; empty if there is none."""
    prompt: str | None
    inputs: Mapping[str, str]
    agent: str | None
    task_id: str | None
    model: str | None
    timeout: float | None
    resume: bool
    namespace: str
    concurrency: int | None
    settings: Settings
    form: Output
    files: tuple[str, ...]
    """The arguments with which another command finds the same files and crew."""
    repeatable: bool
    """True if the same command can be repeated, because it read nothing from stdin."""

    @property
    def next(self) -> hints.Next:
        """The commands to try after this one."""
        namespace, _, name = self.crew.partition("/")
        return hints.Next(
            crew=name if namespace == self.settings.namespace else self.crew,
            files=self.files,
            place=self.place,
            repeatable=self.repeatable,
            model=self.model is None and any(a.system_prompt for c in self.manifests.crews for a in c.spec.agents),
            agent=self.agent,
            chosen_model=self.model,
        )


def say_warnings_once() -> None:
    """Keeps the client from logging warnings that were printed before."""
    logging.getLogger("watchbill.client").addFilter(
        lambda record: not (isinstance(record.args, tuple) and record.args and isinstance(record.args[0], Problem))
    )


async def once(asked: Asked, signals: Signals) -> int:
    """Runs the crew to its end and prints the result. Returns the exit code; raises Interrupted after a signal."""
    crew, out = asked.crew, output.stdout()
    at_work: list[LocalCrews] = []
    with contextlib.redirect_stdout(sys.stderr):  # what agents print stands above the tree
        async with _store(asked, at_work, signals) as (target, client):
            # Before anything runs: the workers might end what is to be resumed before it is looked for.
            resumed = await signals.guard(_resumed(asked, client, target, crew))
            async with _crews(asked, target, at_work, signals) as local:
                task_id = resumed if resumed else await signals.guard(_submit(asked, client, crew))
                try:
                    with progress.on_terminal() as view:
                        work = progress.attend(client, crew, task_id, view, agent=asked.agent, timeout=asked.timeout)
                        ended = await signals.guard(_unless_broken(work, local))
                except Interrupted:
                    output.say("stopping")
                    await drain(local, signals)
                    output.say(await _hint(asked, client, crew, task_id))
                    raise
                except TimeoutError:
                    await drain(local, signals, now=True)
                    hint = await _hint(asked, client, crew, task_id)
                    output.say(f"not finished after {asked.timeout:g} s. {hint}")
                    return 1
                if asked.form is Output.TEXT and out.isatty() and sys.stderr.isatty():
                    output.say("")
                with failures.hinting_at(_where(asked, task_id)):
                    code = output.result(ended, asked.form, out=out)
                if asked.form is Output.TEXT:
                    letters = [] if ended.success else await _dead(client, crew, ended)
                    if not (asked.place.url or asked.place.folder) or not sys.stderr.isatty():
                        asked.next.say_of_crash(ended, letters)
                    if sys.stderr.isatty() and not environment.is_quiet():
                        asked.next.say(task_id, ended, letters)
                await signals.guard(_deliver(asked, client, local, crew, task_id))
                return code


async def _deliver(asked: Asked, client: Client, local: LocalCrews, crew: str, task_id: str) -> None:
    """Waits for deliveries that are due, and says to whom this result is not delivered."""
    await local.delivered(DELIVER_SECONDS)
    found = [one for one in await client.deliveries(crew) if one.task_id == task_id]
    why = f"watchbill deliveries list {crew} says why"
    if dead := sorted({one.destination for one in found if one.state is TaskState.DEAD}):
        output.say(f"note: the result can't be delivered to {', '.join(dead)} ({why})")
    if left := sorted({one.destination for one in found if one.state not in TERMINAL}):
        kept = asked.place.url or asked.place.folder
        later = f"a worker of this store tries again ({why})" if kept else "nothing is kept, because of --ephemeral"
        output.say(f"note: the result is not delivered to {', '.join(left)} yet; {later}")


async def watch(asked: Asked, signals: Signals) -> int:
    """Fires the files' heartbeats and prints events until a signal, which raises Interrupted."""
    out = output.stdout()
    at_work: list[LocalCrews] = []
    crews = [f"{crew.metadata.namespace or asked.namespace}/{crew.name}" for crew in asked.manifests.crews]
    fired = {
        full: [beat for beat in asked.manifests.heartbeats if target_of(beat) == place_of(crew)]
        for full, crew in zip(crews, asked.manifests.crews, strict=True)
    }

    async def follow(crew: str, after: str) -> None:
        async for entry_id, event in client.follow(crew, after=after):
            output.event(entry_id, event, asked.form, crew=crew if len(crews) > 1 else "", out=out)
            if isinstance(event, TownEvent) and (told := await beats.result(client, crew, fired[crew], event)):
                if asked.form is Output.TEXT:
                    out.write(f"{told}\n")
                    out.flush()
                else:  # there, events alone are on stdout
                    output.say(told)

    async def all_of(since: Mapping[str, str]) -> None:
        await asyncio.gather(*(follow(crew, after) for crew, after in since.items()))

    with contextlib.redirect_stdout(sys.stderr):
        async with _store(asked, at_work, signals) as (target, client):
            since = {crew: await signals.guard(_newest(client, crew)) for crew in crews}
            async with _crews(asked, target, at_work, signals, watch=True) as local:
                if asked.prompt is not None:
                    task_id = await signals.guard(_submit(asked, client, asked.crew))
                    output.say(f"submitted {task_id}. Its result: {asked.next.result(task_id)}")
                listed = output.many(len(asked.manifests.heartbeats), "heartbeat")
                output.say(f"watching {', '.join(crews)} with {listed}; Ctrl-C ends it")
                for heartbeat in asked.manifests.heartbeats:
                    output.say(f"heartbeat {heartbeat.name}: {beats.following(heartbeat)}")
                try:
                    await signals.guard(_unless_broken(all_of(since), local))
                except Interrupted:
                    output.say("stopping")
                    raise
    return 0


@asynccontextmanager
async def _store(asked: Asked, at_work: list[LocalCrews], signals: Signals) -> AsyncIterator[tuple[Target, Client]]:
    """The store and a client of it."""
    async with (
        serving.store(asked.place, at_work, signals) as target,
        Client(target, namespace=asked.namespace) as client,
    ):
        yield target, client


@asynccontextmanager
async def _crews(
    asked: Asked, target: Target, at_work: list[LocalCrews], signals: Signals, *, watch: bool = False
) -> AsyncIterator[LocalCrews]:
    """Puts the crews to work, and drains them at the end."""
    local = LocalCrews(
        target,
        asked.manifests,
        namespace=asked.namespace,
        concurrency=asked.concurrency,
        grace_seconds=asked.settings.grace_seconds,
        allow_modules=asked.settings.allowed_modules,
        watch=watch,
    )
    async with serving.started(local, at_work, signals):
        if told := await serving.health(local, asked.settings.health_host, asked.settings.health_port):
            output.say(told)
        yield local


async def _unless_broken(work: Coroutine[Any, Any, T], local: LocalCrews) -> T:
    """The result of `work`. Raises the error that ended a worker, if that comes first."""
    working, broken = asyncio.ensure_future(work), asyncio.ensure_future(local.failed())
    try:
        await asyncio.wait({working, broken}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            broken.result()
        return await working
    finally:
        await end(working, broken)


async def _submit(asked: Asked, client: Client, crew: str) -> str:
    return await client.submit(crew, asked.prompt or "", agent=asked.agent, inputs=asked.inputs, id=asked.task_id)


async def _resumed(asked: Asked, client: Client, target: Target, crew: str) -> str | None:
    """The run to resume, or None for a new one, with a message. Raises InvalidInput if there is neither."""
    unfinished = await client.unfinished(crew)
    if not asked.resume:
        if others := [i for i in unfinished if i != asked.task_id]:
            output.say(
                f"note: unfinished work of this crew ({len(others)} before this) goes on beside it; "
                "--resume goes on with the newest run of it instead"
            )
        return None
    ending = ""
    async with connection.connected(target) as redis:
        for run_id in [asked.task_id] if asked.task_id else unfinished:
            try:
                status = await client.status(crew, run_id)
            except NotFound:  # a task of its own; or there is none of that id
                continue
            keys = client.keys(crew)
            if status.status is RunState.CANCELLING:
                ending = f" (run {run_id} is being cancelled)"
            if status.status in (RunState.CREATING, RunState.CANCELLING, *RUN_TERMINAL) or (
                asked.prompt is not None
                and (
                    asked.prompt != await runs.prompt_of(redis, keys, run_id)
                    or asked.inputs != await runs.inputs(redis, keys, run_id, list(asked.inputs))
                )
            ):
                continue
            await _say_what_it_keeps(asked, redis, keys, run_id)
            done = sum(step.status in TERMINAL for step in status.steps)
            output.say(f"going on with run {run_id}: {done} of {output.many(len(status.steps), 'step')} done")
            return run_id
    same = "" if asked.prompt is None else " with this prompt and these inputs"
    reason = f"there is no unfinished run of crew {crew!r}{same} in {asked.place.tried}{ending}"
    if asked.prompt is None:
        fix = await _failed_before(asked, client, crew) or "Give a prompt to start one."
        raise InvalidInput(Problem(reason, fix, path="--resume"))
    output.say(f"note: {reason}; starting a new one")
    return None


async def _say_what_it_keeps(asked: Asked, redis: Redis, keys: CrewKeys, run_id: str) -> None:
    """Says that a run keeps the definition that it began with. Raises InvalidInput if --model would be ignored."""
    digest, crew = await runs.definition_of(redis, keys, run_id), _crew(asked)
    if digest == from_crew(crew).digest():
        return
    anew = f"To start anew: {asked.next.anew()}"
    began = await definitions.load(redis, keys, digest)
    if asked.model is not None and not _has_model(began, asked.model):
        reason = f"run {run_id} goes on with the definition that it began with, so --model would be ignored"
        raise InvalidInput(Problem(reason, f"Leave it out. {anew}", path="--model"))
    if began.model and from_crew(with_model(crew, began.model)).digest() == digest:
        output.say(f"note: run {run_id} goes on with model {began.model!r}, which it began with. {anew}")
        return
    output.say(
        f"note: run {run_id} goes on with the definition that it began with; what was changed in the files since is "
        f"for new runs, and for dead steps that are replayed. {anew}"
    )


def _crew(asked: Asked) -> Crew:
    """The crew that the prompt is for, as in the files, with --model."""
    return next(c for c in asked.manifests.crews if f"{c.metadata.namespace or asked.namespace}/{c.name}" == asked.crew)


def _has_model(definition: CrewDefinition, model: str) -> bool:
    """Returns whether --model would not change the definition."""
    try:
        crew = to_crew(definition, "default")
    except InvalidInput:  # another program wrote it
        return False
    return from_crew(with_model(crew, model)).digest() == definition.digest()


async def _failed_before(asked: Asked, client: Client, crew: str) -> str:
    """A hint how to continue the last failed run; empty if there is none."""
    with suppress(NotFound):
        async for letter in client.dead_letters(crew):
            step = split_step_id(letter.task_id)
            if step is None or (asked.task_id or step[0]) != step[0]:
                continue
            with suppress(NotFound):
                if (await client.status(crew, step[0])).status not in (RunState.FAILED, RunState.PARTIAL):
                    continue
                ways = [asked.next.replay(letter.task_id), "then this command once more"]
                stored, now = await client.crew(crew), from_crew(_crew(asked))
                if asked.model is None:
                    # mended in the files; but what they say of no model may have been said by --model
                    if stored.digest() != now.digest() and (now.model or not stored.model):
                        ways.insert(0, asked.next.apply())
                elif not _has_model(stored, asked.model):
                    ways[1] += " without --model"
                return f"Run {step[0]} has failed. To go on with it: {', '.join(ways)}. Or give a prompt to start anew."
    return ""


async def _dead(client: Client, crew: str, ended: Result) -> list[str]:
    """The failed tasks that have dead letters."""
    with suppress(WatchbillError):
        if isinstance(ended, TaskResult):
            return [ended.task_id] if await client.state(crew, ended.task_id) is TaskState.DEAD else []
        steps = (await client.status(crew, ended.run_id)).steps
        return [f"{ended.run_id}/{step.name}" for step in steps if step.status is TaskState.DEAD]
    return []


def _where(asked: Asked, task_id: str) -> str:
    if asked.place.url is None and asked.place.folder is None:
        return "Nothing is kept, because of --ephemeral."
    return f"It is kept: {asked.next.result(task_id)}"


async def _hint(asked: Asked, client: Client, crew: str, task_id: str) -> str:
    """A message about the state of the work after a stop."""
    if asked.place.url is None and asked.place.folder is None:
        return "Nothing is kept, because of --ephemeral."
    try:
        ended = await client.result(crew, task_id)
    except WatchbillError as error:
        return f"Whether {task_id} is kept can't be said now: {error}"
    if ended is not None:
        return f"{task_id} ended meanwhile: {asked.next.result(task_id)}"
    return f"{task_id} is kept. To go on: {asked.next.resume(task_id)}"


async def _newest(client: Client, crew: str) -> str:
    """The id of the crew's last event, or of the beginning."""
    found = await client.events(crew, count=1)
    return found[-1][0] if found else BEGINNING
