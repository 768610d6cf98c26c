"""The queue as a state machine: whatever is asked of it, in whatever order, by whomever and however often, it does what
a small model of it does (queue_model.py), and holds nothing else (queue_compare.py).

Every call goes to a real server. A script is atomic there, so one after the other is every order there can be. Time is
made to pass by rewriting scores: leases of an hour that ran out, work that was delayed by one and is due.

WATCHBILL_TEST_STEPS=100000 hunts: so many steps, others each time. What it finds it prints as a short program.
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from queue_compare import Stored
from queue_model import ON_STREAM, Model, Place, Run, Work, Worker
from support import MANY, Crew, finished, flow_of, library, made, payload, run_submission, server_ms

from watchbill import connection
from watchbill.connection import scripts
from watchbill.errors import Conflict, Fenced, NotFound, QueueFull, RetryLater
from watchbill.plan import flow
from watchbill.plan.hierarchy import Asked, Delegated
from watchbill.records import TaskPolicy
from watchbill.store import (
    approvals,
    control,
    dead,
    definitions,
    delegations,
    packed,
    retention,
    runs,
    submissions,
    unfinished,
)
from watchbill.store.queue import Claimed, Finished, Outcome
from watchbill.store.submissions import Submission
from watchbill.tasks import TERMINAL, Priority, RunState, TaskState

HOUR_MS = 3_600_000
LARGE = "x" * 5000
OUTCOMES: tuple[Outcome, ...] = (
    "completed",
    "completed",
    "completed",
    "failed",
    "dead",
    "retry",
    "cancelled",
    "interrupted",
    "approval",
)
CREWS = (
    library("a", "b"),
    library(*"abcde"),
    flow_of([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]),
    flow_of([("a", "b"), ("c", "d")]),
)
_PUT_BACK = (TaskState.WAITING, TaskState.PARKED)
HUNT = int(os.environ.get("WATCHBILL_TEST_STEPS", "0"))
STEPS = 60
"""Of one example."""
MOST = 12
"""Pieces of work at once, about: few, so that more happens to each."""

one_in_four = st.sampled_from([False, False, False, True])
which_crew = st.integers(0, len(CREWS) - 1)


class QueueMachine(RuleBasedStateMachine):
    """Rules are what workers and people do; the model says what must come of it."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.client = connection.connect(self.url)
        self.sync = connection.connect_sync(self.url)
        self.crew: Crew = self.runner.run(made(self.client, f"crew-{uuid.uuid4().hex[:16]}", CREWS[0]))
        self.model = Model(CREWS[0].digest())
        self.stored = Stored(self.crew)
        self.creation: dict[str, tuple[list[tuple[list[str], list[Any]]], int]] = {}
        """Run → the calls that create it, and how many of them were made."""
        self.past: list[tuple[Worker, Finished]] = []
        """What somebody held once, and what they say of its end."""

    # ------------------------------------------------------------ within

    def do(self, coroutine: Awaitable[Any]) -> Any:
        return self.runner.run(coroutine)  # type: ignore[arg-type]

    def ask(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """What it answers, or the type of what it raises."""

        async def answer() -> Any:
            try:
                return await call()
            except (Conflict, Fenced, NotFound, QueueFull, RetryLater) as error:
                return type(error)

        return self.do(answer())

    def some(self, data: st.DataObject, of: Sequence[Work]) -> list[Work]:
        indexes = st.lists(st.integers(0, len(of) - 1), unique=True, min_size=1, max_size=4)
        return [of[i] for i in data.draw(indexes, label="which")]

    def worker(self, who: int) -> Worker:
        """One of those that were not taken for dead; sometimes a new one."""
        able = [worker for worker in self.model.workers.values() if not worker.fenced]
        if who < len(able):
            return able[who]
        name = f"h{who % 2}.{len(self.model.workers)}"
        self.model.workers[name] = Worker(name)
        return self.model.workers[name]

    def anybody(self, who: int) -> Worker:
        workers = list(self.model.workers.values())
        return workers[-1 - who % len(workers)]

    def holding(self, data: st.DataObject) -> tuple[Worker, list[Claimed]]:
        """One that may work, and some of what it holds."""
        work = self.some(data, [w for w in self.model.at(Place.HELD) if not self.model.workers[w.holder].fenced])
        return self.model.workers[work[0].holder], [w.claimed for w in work if w.claimed and w.holder == work[0].holder]

    def somebody_works(self) -> bool:
        return any(not self.model.workers[work.holder].fenced for work in self.model.at(Place.HELD))

    def digest(self, task: Claimed) -> str:
        run = self.model.works[task.id].run
        return run.digest if run else ""

    # ------------------------------------------------------------ work that comes in

    @precondition(lambda self: self.model.present() < MOST)
    @rule(
        count=st.integers(1, 3),
        priority=st.sampled_from(Priority),
        agent=st.sampled_from("ab"),
        large=one_in_four,
        later=st.booleans(),
        known=st.booleans(),
        key=st.sampled_from(["", "", "k1", "k2"]),
        room=st.sampled_from([MANY, MANY, MANY, 4]),
        twice=st.booleans(),
    )
    def submit(
        self,
        count: int,
        priority: Priority,
        agent: str,
        large: bool,
        later: bool,
        known: bool,
        key: str,
        room: int,
        twice: bool,
    ) -> None:
        tasks = [work.id for work in self.model.works.values() if work.run is None]
        ids = [
            *(tasks[-1:] if known else []),
            *(f"t{len(tasks) + len(self.model.trimmed) + i}" for i in range(count)),
        ]
        due = self.do(server_ms(self.client)) + HOUR_MS if later else 0
        options: dict[str, Any] = {"dedupe_key": key, "dedupe_ms": HOUR_MS, "due_ms": due}
        batch = [Submission(i, agent, payload(LARGE if large else i), priority, {"log": i}, **options) for i in ids]
        for _ in range(1 + twice):
            of_others = self.model.dedupe if key else {}  # what they name is there already
            new = sum(i not in self.model.works and of_others.get(key, i) == i for i in ids)
            full = new > 0 and self.model.present() + new > room
            got = self.ask(lambda: self.crew.submit_all(batch, max_queued=room))
            assert got == (QueueFull if full else self.model.submit(batch))
            self.model.refused += full

    @precondition(lambda self: sum(not run.over for run in self.model.runs.values()) < 3)
    @rule(
        which=which_crew,
        priority=st.sampled_from(Priority),
        large=one_in_four,
        parallel=st.integers(1, 3),
        in_parts=one_in_four,
    )
    def submit_run(self, which: int, priority: Priority, large: bool, parallel: int, in_parts: bool) -> None:
        """The crew's definition changes to that of the run. Of one that comes in parts only the first comes now."""
        self._submit_run(which, priority, large, parallel, in_parts)

    def _submit_run(self, which: int, priority: Priority, large: bool, parallel: int, in_parts: bool) -> None:
        definition, run_id = CREWS[which], f"r{len(self.model.runs) + len(self.model.trimmed)}"
        self._apply(which)
        submission = run_submission(run_id, definition, parallel=parallel, priority=priority)
        if large:
            submission = replace(submission, payload=payload(LARGE))
        with mock.patch.object(runs, "BATCH", 2 if in_parts else 500):
            calls = runs.script_call(self.crew.keys, self.crew.uid, submission, MANY, "")
        run = Run(run_id, definition.digest(), flow.steps(definition), parallel, int(priority), not large)
        self.creation[run_id] = (calls, 0)
        self._create(run, 1)

    def _create(self, run: Run, parts: int) -> None:
        """The next parts of it."""
        calls, start = self.creation[run.id]
        size = len(run.plan) if len(calls) == 1 else 2
        for number in range(start, min(start + parts, len(calls))):
            names, args = calls[number]
            over = run.state is not RunState.CREATING
            assert self.do(scripts.run(self.client, "submit_run", names, args)) == [
                "ok",
                "exists" if over else "submitted",
            ]
            if over:
                return
            self.model.add_steps(run, run.plan[number * size : (number + 1) * size])
            self.creation[run.id] = (calls, number + 1)
            if number + 1 == len(calls):
                self.model.start_run(run)

    def _unfinished_creations(self) -> list[str]:
        return [run_id for run_id, (calls, made_) in self.creation.items() if made_ < len(calls)]

    @precondition(lambda self: self._unfinished_creations())
    @rule(data=st.data(), again=st.booleans())
    def go_on_creating(self, data: st.DataObject, again: bool) -> None:
        """Whoever created it goes on, or somebody else creates it from its beginning."""
        run = self.model.runs[data.draw(st.sampled_from(self._unfinished_creations()), label="run")]
        if again:
            self.creation[run.id] = (self.creation[run.id][0], 0)
        self._create(run, len(self.creation[run.id][0]))

    # ------------------------------------------------------------ workers

    @precondition(lambda self: self.model.claimable(over=True))
    @rule(
        who=st.integers(0, 2),
        slots=st.integers(0, 5),
        begin=st.integers(0, 5),
        take_over=st.sampled_from([True, True, False]),
        heard=st.booleans(),
        twice=st.booleans(),
    )
    def claim(self, who: int, slots: int, begin: int, take_over: bool, heard: bool, twice: bool) -> None:
        worker = self.worker(who)
        if heard and slots:  # it took the bell's token
            self.do(self.client.lpop(self.crew.keys.bell))
        number = worker.number + 1
        for _ in range(1 + twice):
            self._claim(worker, number, slots, begin, take_over)

    @precondition(lambda self: self.model.claimable(over=True) or not self.model.at(Place.HELD))
    @rule(who=st.integers(0, 2), which=which_crew)
    def work(self, who: int, which: int) -> None:
        """Takes what there is, a new run where there is nothing, and begins as much of it as it can."""
        worker = self.worker(who)
        if not self.model.claimable(over=True):
            self._submit_run(which, Priority.NORMAL, False, 3, False)
        self._claim(worker, worker.number + 1, 10, 5, True)

    def _claim(self, worker: Worker, number: int, slots: int, begin: int, take_over: bool) -> None:
        options: dict[str, Any] = {"lease_ms": HOUR_MS, "take_over": take_over, "begin": begin}
        got = self.ask(lambda: self.crew.queue.claim(worker.name, number, slots, **options))
        if barred := self.model.barred(worker, number):
            assert got is barred
        else:
            self._claimed(worker, got, number, slots, begin, take_over)

    def _claimed(self, worker: Worker, got: Any, number: int, slots: int, begin: int, take_over: bool) -> None:
        late = worker.known and number <= worker.number
        assert late or got.draining is (worker.host in self.model.draining)
        self.model.claim(worker, number, slots, begin, take_over, got.tasks)

    @precondition(somebody_works)
    @rule(data=st.data(), twice=st.booleans())
    def start(self, data: st.DataObject, twice: bool) -> None:
        worker, tasks = self.holding(data)
        for _ in range(1 + twice):
            got = self.do(self.crew.queue.start(worker.name, tasks))
            assert [s.state for s in got] == [self.model.start(worker, task) for task in tasks]
            for task, started in zip(tasks, got, strict=True):
                work = self.model.works[task.id]
                if started.state == "ok":
                    assert (LARGE in started.payload) is not work.carried
                    assert started.definition == (self.digest(task) or self.model.digest)
                    assert started.inputs == (() if work.run else ("log",))

    @precondition(somebody_works)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        worker, tasks = self.holding(data)
        self._finish(worker, [], [], [self._end(data, task) for task in tasks])

    @precondition(somebody_works)
    @rule(
        data=st.data(),
        begins=st.booleans(),
        tells=st.booleans(),
        ends=st.sampled_from([True, True, False]),
        slots=st.integers(-1, 3),
        begin=st.integers(0, 3),
        take_over=st.booleans(),
        doubled=one_in_four,
        twice=st.booleans(),
    )
    def exchange(
        self,
        data: st.DataObject,
        begins: bool,
        tells: bool,
        ends: bool,
        slots: int,
        begin: int,
        take_over: bool,
        doubled: bool,
        twice: bool,
    ) -> None:
        """Some begin, that others have begun is told, some end, and others are claimed, in one call."""
        worker, tasks = self.holding(data)
        begun = [task for task in tasks if begins and not self.model.works[task.id].begun]
        told = [task for task in tasks if tells and (task in begun or self.model.works[task.id].begun)]
        end = [self._end(data, task) for task in tasks] if ends else []
        options: dict[str, Any] = {"slots": slots, "begin": begin, "take_over": take_over}
        self._finish(worker, begun, told, end, doubled=doubled, twice=twice, **options)

    def _finish(
        self,
        worker: Worker,
        begun: list[Claimed],
        told: list[Claimed],
        ends: list[Finished],
        *,
        slots: int = -1,
        begin: int = 0,
        take_over: bool = False,
        doubled: bool = False,
        twice: bool = False,
    ) -> None:
        """`doubled`: an item is there twice; `twice`: the call is made twice."""
        model, number = self.model, worker.number + 1
        self.past += [(worker, end) for end in ends]
        items = [*ends, *ends[:1]] if doubled else ends
        options: dict[str, Any] = {"begun": begun, "announced": told, "lease_ms": HOUR_MS, "take_over": take_over}
        if slots >= 0:
            options |= {"number": number, "slots": slots, "begin": begin}
        answers, claim = self.do(self.crew.queue.finish(worker.name, items, **options))
        for task in begun:
            model.begin(worker, task)
        for task in told:
            model.tell(worker, task)
        expected = [
            model.finish(worker, end.task, end.outcome, due=end.ttl_ms == 0, awaited=packed.ids(end.detail))
            for end in ends
        ]
        # a step that waits for others may be put back at once, and nothing tells then that it has waited
        waiting = {
            end.task.id for end in ends if end.outcome == "members" and model.works[end.task.id].state in _PUT_BACK
        }
        again = [
            "stale" if what == "stale" or end.task.id in waiting else "repeated"
            for what, end in zip(expected, ends, strict=True)
        ]
        more = again[:1] if doubled else []
        assert answers == expected + more
        if claim:
            self._claimed(worker, claim, number, slots, begin, take_over)
        if twice:
            answers, claim = self.do(self.crew.queue.finish(worker.name, items, **options))
            assert answers == again + more
            if claim:
                self._claimed(worker, claim, number, slots, begin, take_over)

    def _end(self, data: st.DataObject, task: Claimed) -> Finished:
        work = self.model.works[task.id]
        working = work.run.children(work) if work.run else []
        outcomes: tuple[Outcome, ...] = ("members",) * 4 if working else ()
        outcome = data.draw(st.sampled_from(outcomes + OUTCOMES), label=f"{task.id} ends")
        options: dict[str, Any] = {"definition": self.digest(task), "message": "it broke"}
        if outcome == "members":
            options["detail"] = packed.pack_ids(one.plan.name for one in working if one.plan)
        if outcome in ("retry", "approval"):
            options["ttl_ms"] = data.draw(st.sampled_from([0, HOUR_MS]), label="again in ms")
        return finished(task, outcome, **options)

    @precondition(somebody_works)
    @rule(data=st.data(), count=st.integers(1, 2), known=st.booleans(), twice=st.booleans())
    def delegate(self, data: st.DataObject, count: int, known: bool, twice: bool) -> None:
        """Steps begin others, which work for them; or ask again for those that they have begun."""
        worker, tasks = self.holding(data)
        for task in tasks:
            work = self.model.works[task.id]
            if work.run is None or work.plan is None or work.over:
                continue
            there = len(work.run.children(work))
            for number in range(1 if known else there + 1, min(there + count, 3) + 1):
                for _ in range(1 + twice):
                    self._delegate(worker, task, f"{work.plan.name}:{number}", "ab"[number % 2])

    def _delegate(self, worker: Worker, task: Claimed, name: str, agent: str) -> None:
        work = Delegated(name, agent, Asked("do it"))
        got = self.do(delegations.delegate(self.crew.queue, worker.name, task, work, "do it"))
        state = self.model.delegate(worker, task, name, agent)
        assert (got is None) is (state is None)
        if got is not None:
            assert got[0] == work.asked.pack()
            assert (got[1] is not None) is (state in TERMINAL and state is not TaskState.SKIPPED)

    @precondition(somebody_works)
    @rule(data=st.data(), park=st.booleans(), twice=st.booleans())
    def give_away(self, data: st.DataObject, park: bool, twice: bool) -> None:
        """Hands some back, or parks them because it doesn't have their agent."""
        worker, tasks = self.holding(data)
        self.past += [(worker, finished(task, definition=self.digest(task))) for task in tasks]
        expected = [(self.model.park if park else self.model.hand_back)(worker, task) for task in tasks]
        for number in range(1 + twice):
            if park:
                got = self.do(self.crew.queue.park(worker.name, tasks, "no such agent"))
                again = ["stale" if what == "stale" else "repeated" for what in expected]
                assert got == (again if number else expected)
            else:
                assert self.do(self.crew.queue.hand_back(worker.name, tasks)) == expected

    @precondition(lambda self: self.model.at(Place.NO_AGENT))
    @rule(data=st.data(), twice=st.booleans())
    def unpark(self, data: st.DataObject, twice: bool) -> None:
        chosen = self.some(data, self.model.at(Place.NO_AGENT))
        members = [packed.Member(w.agent, w.priority, w.next, w.id) for w in chosen]
        assert self.do(self.crew.queue.unpark(members)) == len(members)
        for work in chosen:
            self.model.unpark(work)
        assert not twice or self.do(self.crew.queue.unpark(members)) == 0

    @precondition(lambda self: any(w.lease == "live" for w in self.model.workers.values()))
    @rule(who=st.integers(0, 2), how=st.sampled_from(["silent", "dead", "leaves"]))
    def expire(self, who: int, how: str) -> None:
        """It renews no more; somebody saw its process end; it leaves, with all that it holds."""
        able = [w for w in self.model.workers.values() if w.lease == "live"]
        worker = able[who % len(able)]
        if how == "silent":
            past = self.do(server_ms(self.client)) - 1
            self.do(self.client.zadd(self.crew.keys.leases, {worker.name: past}, xx=True))
            worker.lease = "over"
            return
        for _ in range(2):
            if how == "dead":
                self.do(self.crew.queue.declare_dead([worker.name]))
                self.model.declare_dead(worker)
            else:
                self.do(self.crew.queue.leave(worker.name))
                self.model.leave(worker)

    @precondition(lambda self: self.model.at(Place.DELAYED))
    @rule(data=st.data(), moved=st.sampled_from([True, True, False]))
    def time_passes(self, data: st.DataObject, moved: bool) -> None:
        """Some delayed work is due; and somebody who looks after crews without workers moves it."""
        self._make_due(self.some(data, self.model.at(Place.DELAYED)))
        if moved:
            self._move_due()

    def _make_due(self, chosen: Sequence[Work]) -> None:
        now = self.do(server_ms(self.client))
        for work in chosen:
            member = packed.Member(work.agent, work.priority, work.next, work.id).pack()
            self.do(self.client.zadd(self.crew.keys.delayed, {member: now}, xx=True))
            work.due = True

    def _move_due(self) -> None:
        due = self.do(self.crew.queue.move_due())
        self.model.vanish()
        self.model.move_due()
        assert (due is None) is (not self.model.at(Place.DELAYED))

    # ------------------------------------------------------------ those who have no right to

    @precondition(lambda self: self.past or self.model.at(Place.HELD))
    @rule(data=st.data(), who=st.one_of(st.none(), st.integers(0, 3)), late=st.booleans(), number=st.integers(0, 7))
    def meddle(self, data: st.DataObject, who: int | None, late: bool, number: int) -> None:
        if late and self.past:
            self._finish_late(who, *self.past[-1 - number % len(self.past)])
        elif self.model.at(Place.HELD):
            self._meddle_with(self.some(data, self.model.at(Place.HELD))[0], who)

    def _finish_late(self, who: int | None, worker: Worker, end: Finished) -> None:
        """A finish of what somebody held once; by them, or by another."""
        if who is not None:
            worker = self.anybody(who)
        if self.model.holds(worker, end.task):
            return
        got = self.ask(lambda: self.crew.queue.finish(worker.name, [end], begun=[end.task], announced=[end.task]))
        barred = self.model.barred(worker)
        assert got is barred if barred else got[0][0] in ("repeated", "stale")

    def _meddle_with(self, work: Work, who: int | None) -> None:
        """Somebody who doesn't hold a task does all that may be done to it; or its holder, under another fence."""
        assert work.claimed is not None
        task, worker = replace(work.claimed, fence=str(work.fence + 1)), self.model.workers[work.holder]
        if who is not None:
            task, worker = work.claimed, self.anybody(who)
            if worker.name == work.holder:
                return
        queue, name = self.crew.queue, worker.name
        end = finished(task, definition=self.digest(task))
        refused: list[tuple[Callable[[], Awaitable[Any]], Callable[[Any], bool]]] = [
            (lambda: queue.start(name, [task]), lambda got: got[0].state == "stale"),
            (lambda: queue.finish(name, [end], begun=[task], announced=[task]), lambda got: got[0][0] != "applied"),
            (lambda: queue.hand_back(name, [task]), lambda got: got == ["stale"]),
            (lambda: queue.park(name, [task], "no such agent"), lambda got: got == ["stale"]),
            (lambda: queue.say(name, task, "boo", 99), lambda got: got is False),
        ]
        for call, is_refused in refused:
            got = self.ask(call)
            barred = self.model.barred(worker)
            assert got is barred if barred else is_refused(got)

    # ------------------------------------------------------------ people

    @precondition(lambda self: self.model.works)
    @rule(data=st.data(), what=st.sampled_from(["cancel", "interrupt"]), between=st.booleans(), twice=st.booleans())
    def stop(self, data: st.DataObject, what: str, between: bool, twice: bool) -> None:
        """A task or step; rather one that is neither plainly waiting nor plainly held."""
        works = list(self.model.works.values())
        there = [work for work in works if not work.over or work.place is not Place.NOWHERE]
        places = (Place.BEHIND, Place.RETURNED)
        odd = [work for work in there if work.place in places or work.state is TaskState.DELAYED]
        work = self.some(data, (between and odd) or there or works)[0]
        for _ in range(1 + twice):
            self._ask(work, what)

    @precondition(lambda self: self.model.at(Place.ASIDE))
    @rule(data=st.data(), twice=st.booleans())
    def resume(self, data: st.DataObject, twice: bool) -> None:
        work = self.some(data, self.model.at(Place.ASIDE))[0]
        for _ in range(1 + twice):
            self._ask(work, "resume")

    @precondition(lambda self: any(work.asks for work in self.model.works.values()))
    @rule(data=st.data(), twice=st.booleans())
    def approve(self, data: st.DataObject, twice: bool) -> None:
        asking = [work for work in self.model.works.values() if work.asks]
        work = self.some(data, [work for work in asking if work.asks == "open"] or asking)[0]
        for _ in range(1 + twice):
            self._ask(work, "approve")

    def _ask(self, work: Work, what: str) -> None:
        crew, refused = (self.client, self.crew.keys, self.crew.uid), {"over": Conflict, "busy": RetryLater}
        match what:
            case "approve":
                got = self.ask(lambda: approvals.decide(*crew, work.id, "approved", "why not"))
                said = self.model.approve(work)
                assert got == {"approved": True, "repeated": False}.get(said, Conflict), said
                return
            case "resume":
                got, said = self.ask(lambda: control.resume(*crew, work.id)), self.model.resume(work)
                assert got == refused.get(said, said == "resumed"), said
                return
            case "cancel":
                got = self.ask(lambda: control.cancel(*crew, work.id, "not needed", HOUR_MS))
                said = self.model.stop(work, "cancel")
            case _:
                got = self.ask(lambda: control.interrupt(*crew, work.id, "wait"))
                said = self.model.stop(work, "interrupt")
        assert got == refused.get(said, said != "asked"), said

    @precondition(lambda self: self.model.runs)
    @rule(data=st.data(), whole=st.booleans(), twice=st.booleans())
    def cancel_run(self, data: st.DataObject, whole: bool, twice: bool) -> None:
        """Cancels it; or begins to, as somebody does who dies in the middle of that."""
        able = [run_id for run_id, run in self.model.runs.items() if not run.over] or list(self.model.runs)
        run = self.model.runs[data.draw(st.sampled_from(able), label="run")]
        keys, uid = self.crew.keys, self.crew.uid
        names = [keys.run(run.id), keys.run_steps(run.id), keys.run_results(run.id)]
        names += [keys.definition(run.digest), keys.run_events(run.id)]
        for _ in range(1 + twice):
            if whole:
                got = self.ask(lambda: control.cancel(self.client, keys, uid, run.id, "enough", HOUR_MS))
                said = self.model.cancel_run(run)
                assert got == (Conflict if said == "over" else said == "cancelled"), said
            else:
                over = run.over
                args = [uid, keys.crew, run.id, "enough", HOUR_MS, keys.control, ""]
                got = self.do(scripts.run(self.client, "cancel_run", [*keys.fixed, *names], args))
                self.model.begin_to_cancel(run)
                assert got == ["over" if over else "ok", run.state.value]

    # Not while a letter or a stray entry leads to what has ended: without its record that is told of as lost.
    @precondition(lambda self: not self.model.letters and not any(work.over for work in self.model.at(*ON_STREAM)))
    @rule(most=st.integers(0, 3), twice=st.booleans())
    def trim(self, most: int, twice: bool) -> None:
        """Of what has ended the oldest goes."""
        ended = [str(i) for i in self.do(self.client.zrange(self.crew.keys.ids, "-inf", "(1e13", byscore=True))]
        current = self.do(definitions.current(self.client, self.crew.keys))
        policy = TaskPolicy(max_results=most)
        bounds = replace(current, content=current.definition.model_copy(update={"tasks": policy}).content())
        for _ in range(1 + twice):
            self.do(retention.trim(self.client, self.crew.keys, self.crew.uid, bounds))
        for task_id in ended[: max(len(ended) - most, 0)]:
            gone = self.model.trim(task_id)
            self.past = [(worker, end) for worker, end in self.past if end.task.id not in gone]
            self.creation.pop(task_id, None)
            self.stored.run_states.pop(task_id, None)
            for name in gone:
                self.stored.states.pop(name, None)

    @precondition(lambda self: self.model.letters)
    @rule(data=st.data(), what=st.sampled_from(["replay", "replay", "purge", "no room"]))
    def look_at_the_dead(self, data: st.DataObject, what: str) -> None:
        model, crew = self.model, (self.client, self.crew.keys, self.crew.uid)
        letters = self.do(_letters(self.crew))
        indexes = st.lists(st.integers(0, len(letters) - 1), unique=True, min_size=1)
        chosen = [letters[i] for i in data.draw(indexes, label="letters")]
        if what == "purge":
            for expected in (len(chosen), 0):
                assert self.do(dead.purge(*crew, [letter.id for letter in chosen])) == expected
            gone = {letter.task_id for letter in chosen}
            model.letters = [task_id for task_id in model.letters if task_id not in gone]
            return
        room = model.present() + len(chosen)
        if what == "no room":
            assert self.ask(lambda: dead.replay(*crew, chosen, max_queued=room - 1)) is QueueFull
            self.model.refused += 1
            return
        outcomes = [model.replay(letter.task_id) for letter in chosen]
        assert self._replayed(chosen, room) == outcomes
        again = ["missing" if outcome == "replayed" else outcome for outcome in outcomes]
        assert self._replayed(chosen, MANY) == again

    def _replayed(self, chosen: list[dead.DeadLetter], room: int) -> list[str]:
        crew = (self.crew.client, self.crew.keys, self.crew.uid)
        return [one.outcome for one in self.do(dead.replay(*crew, chosen, max_queued=room))]

    # ------------------------------------------------------------ what happens now and then

    @precondition(lambda self: self.model.works)
    @rule(
        what=st.sampled_from(["apply", "drain", "late claim", "move", "renew", "resume", "say", "submit"]),
        who=st.integers(0, 3),
        number=st.integers(0, 3),
        on=st.booleans(),
    )
    def besides(self, what: str, who: int, number: int, on: bool) -> None:
        match what:
            case "apply":
                self._apply(number)
            case "drain":
                self._drain(f"h{who % 2}", on and who % 2 == 0)
            case "move":
                self._move_due()
            case "late claim" if self.model.workers:
                worker = self.anybody(who)
                if worker.known or worker.fenced or number != 1:  # else it is a first claim
                    number = min(number, worker.number) if worker.known else number
                    self._claim(worker, number, number, number, on)
            case "renew" if self.model.workers:
                self._renew(self.anybody(who))
            case "resume" if self.model.works:
                self._ask(list(self.model.works.values())[-1 - who % len(self.model.works)], "resume")
            case "say":
                for work in self.model.at(Place.HELD)[:1]:
                    assert work.claimed is not None
                    got = self.ask(lambda c=work.claimed, n=work.holder: self.crew.queue.say(n, c, "hello", number))  # type: ignore[misc]
                    assert got is (Fenced if self.model.workers[work.holder].fenced else True)
            case "submit" if self.model.runs:
                self._submit_known(list(self.model.runs.values())[who % len(self.model.runs)])

    def _apply(self, which: int) -> None:
        """Another definition is current."""
        self.crew.definition = CREWS[which]
        self.do(definitions.apply(self.client, self.crew.keys, CREWS[which]))
        self.model.apply(CREWS[which].digest())

    def _drain(self, host: str, on: bool) -> None:
        changed = (host in self.model.draining) is not on
        for expected in (changed, False):
            assert self.do(control.drain(self.client, self.crew.keys, self.crew.uid, host, on=on)) is expected
        (self.model.draining.add if on else self.model.draining.discard)(host)

    def _renew(self, worker: Worker) -> None:
        async def renewed() -> Any:
            return self.crew.queue.renew(self.sync, worker.name, HOUR_MS, "{}")

        got = self.ask(renewed)
        if barred := self.model.barred(worker):
            assert got is barred
            return
        self.model.renew_lease(worker)
        worker.shown = True
        assert got.draining is (worker.host in self.model.draining)
        assert got.wishes == {work.id: work.wish for work in self.model.held(worker.name) if work.wish}

    def _submit_known(self, run: Run) -> None:
        """Ids that are taken: by a run, by a task."""
        crew = (self.client, self.crew.keys, self.crew.uid)
        task = Submission(run.id, "a", payload("other"))
        assert self.ask(lambda: submissions.submit(*crew, [task], max_queued=MANY)) is Conflict
        tasks = [work.id for work in self.model.works.values() if work.run is None]
        for run_id in [*tasks[-1:], *([] if run.state is RunState.CREATING else [run.id])]:
            submission = run_submission(run_id, self.crew.definition)
            got = self.ask(lambda s=submission: runs.submit(*crew, s, max_queued=MANY))  # type: ignore[misc]
            assert got == (run.id if run_id == run.id else Conflict)

    # ------------------------------------------------------------ what must hold

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        self.do(self.stored.compare(self.model))

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:  # else it has failed already
                self._end_everything()
        finally:
            self.do(_removed(self.crew))
            self.sync.close()
            self.do(self.client.aclose())
            self.runner.close()

    def _end_everything(self) -> None:
        """A last worker does what is left. Then nothing is left."""
        model = self.model
        for run in model.runs.values():
            self._create(run, len(self.creation[run.id][0]))
        names = self.do(self.crew.queue.incarnations())
        self.do(self.crew.queue.declare_dead(names))
        for name in names:
            model.declare_dead(model.workers[name])
        last = model.workers["last.0"] = Worker("last.0")
        tasks: list[Claimed] = []
        while tasks or last.number == 0:
            self._bring_back()
            self.do(self.stored.compare(model))
            self._claim(last, last.number + 1, 100, 100, True)
            tasks = [work.claimed for work in model.held(last.name) if work.claimed]
            self._end_all(last, tasks)
        self.do(self.crew.queue.leave(last.name))
        model.leave(last)
        self.do(self.stored.compare(model))
        self.stored.compare_ends(model)
        reached = [work for work in model.works.values() if work.run is None or work.place is not Place.BEHIND]
        assert [work.id for work in reached if not work.over] == [], "lost"
        assert [run.id for run in model.runs.values() if not run.over] == []
        assert self.do(self.crew.queue.incarnations()) == []
        assert self.do(self.crew.consumers()) == set()
        assert self.do(unfinished.newest(self.client, self.crew.keys)) == []
        self.do(self.crew.assert_idle())

    def _bring_back(self) -> None:
        """What is beside the streams."""
        for work in self.model.at(Place.ASIDE):
            self._ask(work, "resume")
        parked = self.do(self.crew.queue.parked_agents())
        assert self.do(self.crew.queue.unpark([m for of_agent in parked.values() for m in of_agent])) >= 0
        for work in self.model.at(Place.NO_AGENT):
            self.model.unpark(work)
        self._make_due(self.model.at(Place.DELAYED))

    def _end_all(self, worker: Worker, tasks: list[Claimed]) -> None:
        started = self.do(self.crew.queue.start(worker.name, tasks))
        assert [s.state for s in started] == [self.model.start(worker, task) for task in tasks]
        able = [task for task, s in zip(tasks, started, strict=True) if s.state == "ok"]
        ends = [finished(t, "interrupted" if t.wish else "completed", definition=self.digest(t)) for t in able]
        self._finish(worker, [], [], ends)


async def _letters(crew: Crew) -> list[dead.DeadLetter]:
    return [letter async for letter in dead.letters(crew.client, crew.keys)]


async def _removed(crew: Crew) -> None:
    left = await crew.client.keys(crew.keys.prefix + "*")
    if left:
        await crew.client.delete(*left)


@pytest.mark.timeout(0 if HUNT else 1200)  # what fails is made shorter, again and again
def test_whatever_is_asked_of_the_queue_it_does_what_the_model_does(redis_url: str) -> None:
    class Here(QueueMachine):
        url = redis_url

    options = settings(
        max_examples=HUNT // STEPS if HUNT else 150,
        stateful_step_count=STEPS,
        derandomize=not HUNT,
        database=None,
        deadline=None,
        print_blob=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],  # each step asks a server
    )
    run_state_machine_as_test(Here, settings=options)
