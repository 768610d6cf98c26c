"""What a crew's queue is to do, in plain Python: where each task is, who holds it, how it ended.

The model of test_queue_machine.py. It knows the calls and their answers, not how the store keeps things, and never
looks into the store. Time stands still in it: leases end and delayed work is due when it is told so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

from watchbill.errors import Fenced, WorkerForgotten
from watchbill.plan import flow
from watchbill.store.queue import Claimed, Outcome, Wish
from watchbill.store.submissions import Submission
from watchbill.tasks import RUN_TERMINAL, TERMINAL, RunState, TaskState

CARRIED_BYTES = 4096
"""A payload above this does not travel with its entry."""


class Place(Enum):
    """Where work is. All but the first and the last count against `maxQueued`."""

    BEHIND = auto()
    """A step whose dependencies haven't completed, or one that a cancelled run never begins."""
    STREAM = auto()
    """Nobody has had this entry."""
    HELD = auto()
    RETURNED = auto()
    """Handed back: on its stream, in its old place."""
    DELAYED = auto()
    NO_AGENT = auto()
    """Parked: no worker has the agent."""
    BOUND = auto()
    """Parked: its run has as many steps under way as it may."""
    ASIDE = auto()
    """Interrupted."""
    NOWHERE = auto()


ON_STREAM = frozenset({Place.STREAM, Place.HELD, Place.RETURNED})
UNDER_WAY = ON_STREAM | {Place.DELAYED, Place.NO_AGENT, Place.ASIDE}
"""What counts as an active step of a run."""
PRESENT = UNDER_WAY | {Place.BOUND}


@dataclass
class Work:
    """A task, or a step of a run."""

    id: str
    agent: str
    priority: int
    carried: bool
    """Its payload is small enough to travel."""
    run: Run | None = None
    plan: flow.Step | None = None
    state: TaskState = TaskState.WAITING
    """As people see it."""
    place: Place = Place.NOWHERE
    next: int = 1
    """The number of the attempt that is under way, or comes next."""
    last: int | None = None
    """The attempt with which it ended."""
    along: bool = False
    """Its entry carries the payload."""
    due: bool = False
    """Delayed until now."""
    later: bool = False
    """Interrupted before it was due: resumed, it is delayed again."""
    unplaced: bool = False
    """Interrupted while it waited for a place in its run."""
    asks: Literal["", "open", "over", "approved"] = ""
    """Its approval: nobody asked, or somebody may still decide, or nobody can any more, or somebody has."""
    holder: str = ""
    claimed: Claimed | None = None
    """What its holder was given."""
    fence: int = 0
    begun: bool = False
    known: int = 0
    """0: nobody knows that it has begun; 1: it is counted for its agent; 2: and told."""
    wish: Wish | None = None
    ends: int = 0
    replays: int = 0
    members: int = 0
    """Dependencies left because of the steps that work for it: 1 while it waits for one of them; one less for each that
    has ended since."""

    @property
    def is_delegated(self) -> bool:
        """Another step has begun it, and judges how it ends."""
        return self.plan is not None and self.plan.kind == "delegated"

    @property
    def is_done(self) -> bool:
        """It counts as completed."""
        return self.state is TaskState.COMPLETED or (
            self.is_delegated and self.over and self.state is not TaskState.SKIPPED
        )

    @property
    def over(self) -> bool:
        """Its entry, if there is one, is a stray: it runs nothing."""
        return self.state in TERMINAL

    def put(self, *, along: bool) -> None:
        self.place, self.along, self.due = Place.STREAM, along and self.carried, False

    def drop(self) -> None:
        """Nobody holds it any more, and its entry is gone."""
        self.place, self.holder, self.claimed = Place.NOWHERE, "", None
        self.begun, self.known, self.wish = False, 0, None


@dataclass
class Run:
    """A run: its steps hold its counters."""

    id: str
    digest: str
    plan: Sequence[flow.Step]
    parallel: int
    priority: int
    carried: bool
    state: RunState = RunState.CREATING
    steps: dict[str, Work] = field(default_factory=dict)
    """In the order of the plan; of a run that is being created those that are there."""

    @property
    def over(self) -> bool:
        return self.state in RUN_TERMINAL

    def count(self, *states: TaskState) -> int:
        return sum(step.state in states for step in self.steps.values())

    def active(self) -> int:
        return sum(not step.over and step.place in UNDER_WAY for step in self.steps.values())

    def unplaced(self) -> int:
        return sum(step.unplaced for step in self.steps.values())

    def done(self) -> int:
        return sum(step.is_done for step in self.steps.values())

    def failed(self) -> int:
        bad = (TaskState.FAILED, TaskState.DEAD, TaskState.CANCELLED)
        return sum(step.state in bad and not step.is_delegated for step in self.steps.values())

    def left(self, step: Work) -> int:
        assert step.plan is not None
        before = [self.steps.get(name) for name in step.plan.after]
        return step.members + sum(one is None or one.state is not TaskState.COMPLETED for one in before)

    def children(self, step: Work) -> list[Work]:
        """The steps that work for it."""
        return [
            one
            for one in self.steps.values()
            if one.is_delegated and one.plan and step.plan and one.plan.successors == (step.plan.name,)
        ]

    def ends(self) -> list[Work]:
        return [step for step in self.steps.values() if step.plan and not step.plan.successors]

    def outcome(self) -> RunState:
        whole = all(step.is_done for step in self.steps.values())
        if self.state is not RunState.RUNNING:
            return RunState.COMPLETED if whole and self.state is RunState.CANCELLING else RunState.CANCELLED
        if whole:
            return RunState.COMPLETED
        good = any(step.state is TaskState.COMPLETED for step in self.ends())
        return RunState.PARTIAL if good else RunState.FAILED


@dataclass
class Worker:
    """An incarnation."""

    name: str
    number: int = 0
    """Of its last claim."""
    last: tuple[str, ...] = ()
    """What that gave."""
    lease: Literal["", "live", "over", "gone"] = ""
    """`over`: it ran out; `gone`: it was declared dead, or has left."""
    fenced: bool = False
    known: bool = False
    """The store knows its last claim."""
    shown: bool = False
    """It has renewed, so people see it."""

    @property
    def host(self) -> str:
        return self.name.rpartition(".")[0]


class Model:
    def __init__(self, digest: str) -> None:
        self.works: dict[str, Work] = {}
        self.runs: dict[str, Run] = {}
        self.workers: dict[str, Worker] = {}
        self.draining: set[str] = set()
        self.dedupe: dict[str, str] = {}
        self.letters: list[str] = []
        self.refused = 0
        """Submissions for which there was no room."""
        self.told: list[tuple[str, str, str]] = []
        """What the results stream must hold: kind, id, state."""
        self.trimmed: list[str] = []
        """Tasks and runs that ended, and are no longer kept."""
        self.ended: Counter[str] = Counter()
        """How often they and their steps did."""
        self.digest = digest
        self.digests = {digest}
        """Definitions that are kept."""

    # ------------------------------------------------------------ looking

    def present(self) -> int:
        return sum(work.place in PRESENT for work in self.works.values())

    def at(self, *places: Place) -> list[Work]:
        return [work for work in self.works.values() if work.place in places]

    def held(self, worker: str) -> list[Work]:
        return [work for work in self.works.values() if work.place is Place.HELD and work.holder == worker]

    def claimable(self, *, over: bool = False) -> list[Work]:
        """What the next claim may take; `over`: also of those whose lease ran out."""
        gone = {w.name for w in self.workers.values() if w.lease == "gone" or (over and w.lease == "over")}
        free = self.at(Place.STREAM, Place.RETURNED)
        return free + [work for work in self.at(Place.HELD) if work.holder in gone]

    def references(self) -> Counter[str]:
        return Counter(run.digest for run in self.runs.values() if not run.over)

    def unfinished(self) -> set[str]:
        tasks = {work.id for work in self.works.values() if work.run is None and not work.over}
        return tasks | {run.id for run in self.runs.values() if not run.over}

    def agents(self) -> Counter[str]:
        return Counter(work.agent for work in self.at(Place.HELD) if work.known)

    # ------------------------------------------------------------ coming in

    def apply(self, digest: str) -> None:
        """Another definition is current; one that nobody refers to any more is gone."""
        old, self.digest = self.digest, digest
        self.digests.add(digest)
        if old != digest and not self.references()[old]:
            self.digests.discard(old)

    def submit(self, batch: Sequence[Submission]) -> list[str]:
        ids = []
        for s in batch:
            first = self.dedupe.get(s.dedupe_key, s.id) if s.dedupe_key else s.id
            ids.append(first)
            if first != s.id or s.id in self.works or s.id in self.trimmed:
                continue
            work = Work(s.id, s.agent, int(s.priority), len(s.payload) <= CARRIED_BYTES)
            if s.due_ms:
                work.state, work.place = TaskState.DELAYED, Place.DELAYED
            else:
                work.put(along=True)
            self.works[s.id] = work
            if s.dedupe_key:
                self.dedupe[s.dedupe_key] = s.id
        return ids

    def add_steps(self, run: Run, plan: Iterable[flow.Step]) -> None:
        """A part of a run that is being created."""
        self.runs[run.id] = run
        for planned in plan:
            if planned.name in run.steps:
                continue
            step = Work(f"{run.id}/{planned.name}", planned.agent, run.priority, run.carried, run, planned)
            step.place = Place.BEHIND if planned.after else Place.BOUND
            step.state = TaskState.WAITING if planned.after else TaskState.PARKED
            run.steps[planned.name] = self.works[step.id] = step

    def start_run(self, run: Run) -> None:
        run.state = RunState.RUNNING
        self._pump(run, [])

    # ------------------------------------------------------------ workers

    def claim(
        self, worker: Worker, number: int, slots: int, begin: int, take_over: bool, tasks: Sequence[Claimed]
    ) -> None:
        """Checks what a claim gave. (One that is refused gives nothing: see `barred`.)"""
        over = take_over and worker.lease not in ("over", "gone")
        self.renew_lease(worker)
        if worker.known and number <= worker.number:
            mine = {work.id for work in self.held(worker.name)}
            again = [task_id for task_id in worker.last if task_id in mine]
            assert [task.id for task in tasks] == (again if number == worker.number else []), "sent again"
            for task in tasks:
                work = self.works[task.id]
                expected = (str(work.fence), work.next, work.wish, work.begun and not work.wish)
                assert (task.fence, task.attempt, task.wish, task.begun) == expected, "sent again"
            return
        worker.known, worker.number, worker.last = True, number, tuple(task.id for task in tasks)
        if worker.host in self.draining or slots == 0:
            assert not tasks, "it is to claim nothing"
            return
        self.move_due()
        free = self.claimable(over=over)
        assert len(tasks) == len(set(worker.last)) == min(slots, len(free)), "as many as there are, and each once"
        assert set(worker.last) <= {work.id for work in free}, "nobody else may hold it"
        best = Counter(sorted(work.priority for work in free)[: len(tasks)])
        assert (best - Counter(task.priority for task in tasks)).total() <= 1, "urgent ones first, but one"
        dead = [w for w in self.workers.values() if w.lease == "gone" or (over and w.lease == "over")]
        for task in tasks:
            begin -= self._take(worker, task, begin > 0)
        for gone in dead:
            gone.fenced, gone.known, gone.shown = True, False, False
            if not self.held(gone.name):
                gone.lease = ""

    def renew_lease(self, worker: Worker) -> None:
        """Where its own ran out, others' may have for the same reason: they get the chance to renew."""
        for other in self.workers.values() if worker.lease in ("over", "gone") else ():
            other.lease = "live" if other.lease == "over" else other.lease
        worker.lease = "live"

    def barred(self, worker: Worker, number: int = 0) -> type[Fenced] | None:
        """Why it may not do anything, or claim under this number."""
        if worker.fenced:
            return Fenced
        return None if worker.known or number == 1 else WorkerForgotten

    def _take(self, worker: Worker, task: Claimed, may_begin: bool) -> bool:
        work = self.works[task.id]
        assert task.taken_over is (work.place is not Place.STREAM)
        if work.begun:
            work.next += 1  # that start came to nothing
        assert int(task.fence) > work.fence, "a fence only grows"
        expected = (work.agent, work.priority, work.next, work.wish, work.along)
        assert (task.agent, task.priority, task.attempt, task.wish, bool(task.payload)) == expected
        begun = may_begin and work.along and work.wish is None
        assert task.begun is begun
        work.known = 1 if begun or (work.known and work.place is Place.HELD) else 0
        work.place, work.holder, work.claimed, work.fence = Place.HELD, worker.name, task, int(task.fence)
        work.begun = begun
        return begun

    def start(self, worker: Worker, task: Claimed) -> str:
        work = self.works[task.id]
        if not self.holds(worker, task):
            return "stale"
        if work.over:
            work.drop()
            return "stale"
        work.begun, work.known = True, 2
        if work.state is not TaskState.CANCELLING:
            work.state = TaskState.RUNNING
        return "ok"

    def holds(self, worker: Worker, task: Claimed) -> bool:
        work = self.works[task.id]
        return work.place is Place.HELD and work.holder == worker.name and str(work.fence) == task.fence

    def begin(self, worker: Worker, task: Claimed) -> None:
        """With a finish: it begins."""
        if self.holds(worker, task):
            work = self.works[task.id]
            work.begun, work.known = True, max(work.known, 1)

    def tell(self, worker: Worker, task: Claimed) -> None:
        """With a finish: it has begun, and that is to be seen."""
        work = self.works[task.id]
        if self.holds(worker, task) and work.known < 2:
            work.begun, work.known = True, 2
            if work.state in (TaskState.WAITING, TaskState.DELAYED, TaskState.APPROVAL):
                work.state = TaskState.RUNNING

    def delegate(self, worker: Worker, task: Claimed, name: str, agent: str) -> TaskState | None:
        """The state of the step that works for this one, which is begun unless it is there; None: it may not be."""
        work = self.works[task.id]
        run = work.run
        if run is None or work.plan is None or not self.holds(worker, task):
            return None
        if name not in run.steps:
            if run.state is not RunState.RUNNING:
                return None
            plan = flow.Step(name, agent, (), (work.plan.name,), kind="delegated")
            child = Work(f"{run.id}/{name}", agent, run.priority, run.carried, run, plan)
            run.steps[name] = self.works[child.id] = child
            self._pump(run, [child])
        return run.steps[name].state

    def finish(self, worker: Worker, task: Claimed, outcome: Outcome, *, due: bool, awaited: Sequence[str] = ()) -> str:
        """applied | stale | an empty text: repeated or stale, it is not this worker's. `awaited`: the steps that it
        waits for."""
        work = self.works[task.id]
        if not self.holds(worker, task):
            return ""
        if work.over:
            work.drop()
            return "stale"
        wish, attempt = work.wish, work.next
        counts = outcome not in ("interrupted", "approval", "members")
        if wish and outcome in ("retry", "interrupted", "approval", "members"):
            outcome = "cancelled" if wish == "cancel" else "interrupted"
        if outcome == "dead" and work.is_delegated:
            outcome = "failed"
        work.drop()
        if outcome == "retry":
            work.state, work.place, work.due, work.next = TaskState.DELAYED, Place.DELAYED, due, attempt + 1
        elif outcome == "approval":
            work.asks = work.asks or ("over" if due else "open")
            work.state, work.place, work.due = TaskState.APPROVAL, Place.DELAYED, work.asks != "open"
        elif outcome == "interrupted":
            work.next = attempt + counts
            self._set_aside(work)
        elif outcome == "members":
            self._await(work, awaited)
        else:
            if outcome == "dead":
                self.letters.append(work.id)
            self._conclude(work, TaskState(outcome), attempt)
        return "applied"

    def hand_back(self, worker: Worker, task: Claimed) -> str:
        work = self.works[task.id]
        if not self.holds(worker, task):
            same = work.place is Place.RETURNED and str(work.fence) == task.fence
            return "applied" if same else "stale"
        if work.over:
            work.drop()
            return "stale"
        self._give_back(work)
        return "applied"

    def _give_back(self, work: Work) -> None:
        work.place, work.holder, work.begun, work.known = Place.RETURNED, "", False, 0
        work.state = TaskState.CANCELLING if work.wish == "cancel" else TaskState.WAITING

    def park(self, worker: Worker, task: Claimed) -> str:
        work = self.works[task.id]
        if not self.holds(worker, task):
            return ""
        if work.over:
            work.drop()
            return "stale"
        if work.wish:
            self._give_back(work)
            return "stopped"
        work.drop()
        work.state, work.place = TaskState.PARKED, Place.NO_AGENT
        return "applied"

    def unpark(self, work: Work) -> None:
        work.state = TaskState.WAITING
        work.put(along=False)

    def move_due(self) -> int:
        due = [work for work in self.at(Place.DELAYED) if work.due]
        for work in due:
            work.put(along=False)
        return len(due)

    def vanish(self) -> None:
        """Whoever looks after crews without workers has told of those whose lease ran out."""
        for worker in self.workers.values():
            worker.shown = worker.shown and worker.lease != "over"

    def declare_dead(self, worker: Worker) -> None:
        if worker.lease:
            worker.lease = "gone"

    def leave(self, worker: Worker) -> None:
        worker.fenced, worker.known, worker.shown = True, False, False
        worker.lease = "gone" if self.held(worker.name) else ""

    # ------------------------------------------------------------ what people ask

    def stop(self, work: Work, what: Wish) -> str:
        """cancelled | interrupted | asked | repeated | over | busy."""
        run = work.run
        if work.over or (run and run.state not in (RunState.RUNNING, RunState.CANCELLING)):
            return "repeated" if what == "cancel" and work.state is TaskState.CANCELLED else "over"
        if what == "interrupt" and work.state is TaskState.INTERRUPTED:
            return "repeated"
        if what == "interrupt" and work.wish == "cancel":
            return "over"
        if work.place is Place.HELD and self.workers[work.holder].lease == "live":
            work.wish = what
            if what == "cancel":
                work.state = TaskState.CANCELLING
            return "asked"
        is_due = work.state in (TaskState.DELAYED, TaskState.APPROVAL)
        moved = work.place is Place.STREAM and is_due  # nobody knows its entry
        if what == "interrupt":
            if work.place is Place.BEHIND or (run and run.state is RunState.CANCELLING):
                return "over"
            if moved:
                return "busy"
            work.later = work.place is Place.DELAYED and not work.due
            work.unplaced = work.place is Place.BOUND
            work.next += work.begun  # its worker died, and that start came to nothing
            work.drop()
            self._set_aside(work)
            return "interrupted"
        attempt = work.next if work.begun else work.next - 1
        work.unplaced = False
        if not moved:
            work.drop()
        self._conclude(work, TaskState.CANCELLED, attempt)
        return "cancelled"

    def begin_to_cancel(self, run: Run) -> str:
        """over | repeated | ok: nothing more of it begins."""
        if run.over:
            return "repeated" if run.state is RunState.CANCELLED else "over"
        if run.state is RunState.RUNNING:
            run.state = RunState.CANCELLING
        for step in run.steps.values():
            if step.place is Place.BOUND:
                step.drop()
                step.state = TaskState.SKIPPED
        if run.active() == 0:
            self._end_run(run)
        return "ok"

    def cancel_run(self, run: Run) -> str:
        """over | cancelled (it has ended) | asked."""
        begun = self.begin_to_cancel(run)
        if begun == "over":
            return "over"
        if not run.over:
            for step in [s for s in run.steps.values() if not s.over and run.left(s) <= 0]:
                self.stop(step, "cancel")
        return "cancelled" if run.over else "asked"

    def resume(self, work: Work) -> str:
        """resumed | waiting | over."""
        if work.over:
            return "over"
        if work.place is not Place.ASIDE:
            return "waiting"
        unplaced, work.unplaced, run = work.unplaced, False, work.run
        # One of a run that is being cancelled comes to a worker, to be ended: nothing would give it a place later.
        waits = unplaced and run and run.state is RunState.RUNNING and run.active() - run.unplaced() > run.parallel
        if work.later:
            work.state = TaskState.APPROVAL if work.asks == "open" else TaskState.DELAYED
            work.place, work.later = Place.DELAYED, False
        elif waits:
            work.state, work.place = TaskState.PARKED, Place.BOUND
        else:
            work.state = TaskState.WAITING
            work.put(along=True)
        return "resumed"

    def approve(self, work: Work) -> str:
        """approved | repeated | over | none | late."""
        if work.asks == "approved":
            return "repeated"
        if work.over or work.asks != "open":
            return "over" if work.over else "late" if work.asks else "none"
        work.asks = "approved"
        if work.place is Place.DELAYED:
            work.state = TaskState.WAITING
            work.put(along=True)
        work.later = False
        return "approved"

    def replay(self, letter: str) -> str:
        """replayed | taken | expired; `letter` names the task."""
        work, run = self.works[letter], self.works[letter].run
        assert work.state is TaskState.DEAD
        if run and run.digest not in self.digests:
            return "expired"
        if run and run.state in (RunState.CANCELLING, RunState.CANCELLED):
            return "taken"
        self.letters.remove(letter)
        work.state, work.next, work.last, work.replays = TaskState.WAITING, 1, None, work.replays + 1
        if run:
            run.state = RunState.RUNNING
            self._pump(run, [work])
        else:
            work.put(along=True)
        return "replayed"

    def trim(self, ended: str) -> set[str]:
        """It is no longer kept. Returns what of it there was: the task, or the run's steps."""
        run = self.runs.pop(ended, None)
        gone = {work.id for work in self.works.values() if (work.run is run if run else work.id == ended)}
        assert all(self.works[name].over or run for name in gone), f"{ended} has not ended"
        assert run is None or run.over, f"{ended} has not ended"
        for name in gone:
            self.ended[name] += self.works.pop(name).ends
        self.trimmed.append(ended)
        return gone

    # ------------------------------------------------------------ within

    def _set_aside(self, work: Work) -> None:
        work.state, work.place = TaskState.INTERRUPTED, Place.ASIDE

    def _conclude(self, work: Work, state: TaskState, attempt: int) -> None:
        work.state, work.last, work.wish, work.ends = state, attempt, None, work.ends + 1
        assert work.ends <= work.replays + 1, f"{work.id} ends twice"
        self.told.append(("step" if work.run else "task", work.id, state.value))
        if work.run:
            self._advance(work.run, work)

    def _await(self, work: Work, awaited: Sequence[str]) -> None:
        assert work.run is not None
        ended = any(work.run.steps[name].over for name in awaited)
        work.state, work.place, work.members = TaskState.WAITING, Place.BEHIND, 0 if ended else 1
        self._pump(work.run, [work] if ended else [])
        if work.run.active() == 0:
            self._end_run(work.run)

    def _advance(self, run: Run, step: Work) -> None:
        ready = []
        if step.plan and (step.state is TaskState.COMPLETED or step.is_delegated):
            behind = [run.steps[name] for name in step.plan.successors]
            for one in behind:
                one.members -= step.is_delegated
            ready = [s for s in behind if not s.over and not run.left(s)]
        self._pump(run, ready)
        if run.active() == 0:
            self._end_run(run)

    def _pump(self, run: Run, ready: list[Work]) -> None:
        if run.state is RunState.CANCELLING:
            return
        steps = list(run.steps.values())
        parked = [step for step in steps if step.place is Place.BOUND]
        for step in [*parked, *sorted(ready, key=steps.index)]:
            if run.active() - run.unplaced() < run.parallel:
                step.state = TaskState.WAITING
                step.put(along=step.next == 1)
            else:
                step.state, step.place = TaskState.PARKED, Place.BOUND

    def _end_run(self, run: Run) -> None:
        assert not run.over, f"{run.id} ends twice"
        run.state = run.outcome()
        self.told.append(("run", run.id, run.state.value))
        if not self.references()[run.digest] and run.digest != self.digest:
            self.digests.discard(run.digest)
