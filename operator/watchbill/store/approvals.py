"""Approvals that tasks and steps wait for: reads them, and decides them. `finish` asks for one (Outcome `approval`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import redis.asyncio

from watchbill.connection import outages
from watchbill.errors import Conflict
from watchbill.names import CrewKeys, split_step_id
from watchbill.store import control, packed, runs
from watchbill.tasks import Approval

Verdict = Literal["approved", "rejected"]

_OF_TASK: Final = "approvals"
_OF_STEP: Final = "approvals:"


async def read(client: redis.asyncio.Redis, keys: CrewKeys, task_id: str) -> list[Approval]:
    """Returns the approvals of a task or step (`run/step`), in the order in which they were asked for. Raises
    NewerRecord."""
    step = split_step_id(task_id)
    with outages.translated():
        if step is None:
            text = await client.hget(keys.task(task_id), _OF_TASK)
        else:
            text = await client.hget(keys.run(step[0]), _OF_STEP + step[1])
    with runs.readable(keys, task_id):
        return packed.approvals(str(text or ""))


async def of_work(client: redis.asyncio.Redis, keys: CrewKeys, work_id: str) -> Mapping[str, list[Approval]]:
    """Returns the approvals of a task, of a step, or of all steps of a run, by their ids. Raises NotFound,
    NewerRecord."""
    with outages.translated():
        fields = [] if split_step_id(work_id) else await client.hkeys(keys.run(work_id))
    if not fields:
        await runs.state(client, keys, work_id)
        found = await read(client, keys, work_id)
        return {work_id: found} if found else {}
    steps = sorted(str(name).removeprefix(_OF_STEP) for name in fields if str(name).startswith(_OF_STEP))
    ids = [f"{work_id}/{step}" for step in steps]
    return {step_id: await read(client, keys, step_id) for step_id in ids}


async def decide(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    task_id: str,
    verdict: Verdict,
    why: str,
    *,
    what: str | None = None,
    mark: str | None = None,
) -> bool:
    """Approves of what a task or step waits for, or rejects it. False: that was done before. `what`: the approval that
    is meant (`Approval.what`); None: the only one that it waits for. `mark`: of what whoever decides was shown
    (`Approval.mark`); None: whatever is asked.

    Raises NotFound, and Conflict: it waits for no such approval, or for several and none is named; it was asked anew
    since it was shown; it has ended, its time is over, or it was decided otherwise.
    """
    agent = await control.agent_of(client, keys, task_id)
    task = f"task {task_id!r} of crew {keys.crew!r}"
    shown = None
    if mark is not None:
        known = await read(client, keys, task_id)
        if not known:
            raise Conflict(f"{task} waits for no approval")
        shown = next((one for one in known if one.mark == mark and what in (None, one.what)), None)
        if shown is None:
            raise _asked_anew(keys, task_id, mark)
        what = shown.what
    elif what is None:
        what = _only(task, await read(client, keys, task_id))
    names = [*keys.fixed, *keys.of_item(task_id, agent)]
    args = [uid, keys.crew, task_id, verdict, control.one_line(why), what, _since(shown)]
    outcome = str((await control.call(client, keys, "decide", names, args))[1])
    if outcome == "anew":
        raise _asked_anew(keys, task_id, mark)
    if outcome == "none":
        raise Conflict(f"{task} waits for no approval" + (f" of {what!r}" if what else ""))
    if outcome == "late":
        raise Conflict(f"{task} can't be {verdict}: nobody decided in time, so it counts as not approved")
    if outcome == "other":
        other: Verdict = "rejected" if verdict == "approved" else "approved"
        raise Conflict(f"{task} can't be {verdict}: somebody has {other} it before")
    return control.accepted(keys, task_id, outcome, verdict) != "repeated"


def _since(shown: Approval | None) -> int | str:
    """Returns when what was shown was asked for, in ms; empty: nothing was."""
    return "" if shown is None else round(shown.asked_at.timestamp() * 1000)


def _asked_anew(keys: CrewKeys, task_id: str, mark: str | None) -> Conflict:
    return Conflict(
        f"task {task_id!r} of crew {keys.crew!r} does not wait for approval of what has the mark {mark!r}: it never "
        f"asked for that, or has asked anew since. Look at it once more: watchbill why {keys.crew} {task_id}"
    )


def _only(task: str, known: Sequence[Approval]) -> str:
    """Returns what is meant where nothing is named: so nobody decides what comes after it. Raises Conflict."""
    waiting = [one.what for one in known if one.state == "waiting"]
    if len(waiting) > 1:
        raise Conflict(f"{task} waits for several approvals. Say which one is meant: {', '.join(map(repr, waiting))}")
    return (waiting or [one.what for one in known] or [""])[-1]
