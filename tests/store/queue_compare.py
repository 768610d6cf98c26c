"""All that the store holds of a crew's queue, compared with the model of it (queue_model.py).

Reads Redis itself, and writes nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from queue_model import ON_STREAM, Model, Place, Run, Work
from support import Crew

from watchbill.names import CLASSES, WORKERS_GROUP
from watchbill.store import figures, packed
from watchbill.tasks import TRANSITIONS, RunState, TaskState

FS = "\x1f"
_UNFINISHED = 1e13
_RUN_MOVES = {
    RunState.CREATING: {RunState.RUNNING, RunState.CANCELLED},
    RunState.CANCELLING: {RunState.COMPLETED, RunState.CANCELLED},
    RunState.PARTIAL: {RunState.RUNNING},  # a dead step was replayed
    RunState.FAILED: {RunState.RUNNING},
    RunState.COMPLETED: set(),
    RunState.CANCELLED: set(),
}


def same(stored: Any, model: Any, what: str) -> None:
    assert stored == model, f"{what}: the store has {stored}, the model {model}"


@dataclass
class Stored:
    """What was seen so far, and is compared with what is seen next."""

    crew: Crew
    states: dict[str, TaskState] = field(default_factory=dict)
    run_states: dict[str, RunState] = field(default_factory=dict)
    moves: set[tuple[TaskState, TaskState]] = field(default_factory=set)
    told: int = 0
    last_result: str = "-"

    async def compare(self, model: Model) -> None:
        """Everything that is stored is as the model says, and came about by legal moves."""
        seen = await self._read(model)
        self._streams(seen, model)
        self._running(seen, model)
        self._beside(seen, model)
        self._workers(seen, model)
        self._definitions(seen, model)
        for work in model.works.values():
            self._moved(work)
            if work.run is None:
                _task(seen[work.id], work)
        for run in model.runs.values():
            self._run(seen[run.id], run)
        new = seen["results"]
        told = [(fields["kind"], fields["id"], fields["state"]) for _, fields in new]
        same(told, model.told[self.told :], "each end is told once")
        self.told = len(model.told)
        if new:
            self.last_result = f"({new[-1][0]}"
        same([fields["id"] for _, fields in seen["dead"]], model.letters, "dead letters")
        unfinished = {name for name, score in seen["ids"] if score > _UNFINISHED}
        same(unfinished, model.unfinished(), "unfinished ids")
        known = {work.id for work in model.works.values() if work.run is None} | set(model.runs)
        same({name for name, _ in seen["ids"]}, known, "ids")
        free = model.claimable()
        assert not free or seen["bell"] == 1, f"nobody is told that there is work: {[work.id for work in free]}"
        await self._figures(model)

    async def _read(self, model: Model) -> dict[str, Any]:
        keys = self.crew.keys
        names: list[str] = []
        async with self.crew.client.pipeline(transaction=False) as pipe:

            def ask(name: str, _: Any) -> None:
                names.append(name)

            for priority, stream in zip(CLASSES, keys.streams, strict=True):
                ask(f"entries {priority}", pipe.xrange(stream))
                ask(f"pending {priority}", pipe.xpending_range(stream, WORKERS_GROUP, "-", "+", 10_000))
            for name in ("holders", "agents", "wishes", "meta", "claims", "workers"):
                ask(name, pipe.hgetall(getattr(keys, name)))
            for name in ("delayed", "parked_concurrency", "parked_agent", "parked_interrupt", "ids", "leases"):
                ask(name, pipe.zrange(getattr(keys, name), 0, -1, withscores=True))
            ask("fenced", pipe.zrange(keys.fenced, 0, -1))
            ask("bell", pipe.llen(keys.bell))
            ask("time", pipe.time())
            ask("dead", pipe.xrange(keys.dead))
            ask("results", pipe.xrange(keys.results, self.last_result))
            ask("definitions", pipe.keys(keys.definition("*")))
            for work in model.works.values():
                if work.run is None:
                    ask(work.id, pipe.hgetall(keys.task(work.id)))
                    ask(f"{work.id} life", pipe.pttl(keys.task(work.id)))
            for run_id in model.runs:
                of_run = (keys.run(run_id), keys.run_steps(run_id), keys.run_results(run_id))
                for name, key in zip(("", " steps", " results"), of_run, strict=True):
                    ask(f"{run_id}{name}", pipe.hgetall(key))
                    ask(f"{run_id}{name} life", pipe.pttl(key))
            seen = dict(zip(names, await pipe.execute(raise_on_error=False), strict=True))
        for run_id in model.runs:
            parts = ("", " life", " steps", " steps life", " results", " results life")
            seen[run_id] = [seen[f"{run_id}{part}"] for part in parts]
        for work in model.works.values():
            if work.run is None:
                seen[work.id] = (seen[work.id], seen[f"{work.id} life"])
        return seen

    def _streams(self, seen: dict[str, Any], model: Model) -> None:
        """Each piece of work is at most once on a stream, on that of its class, and held by whom it should be."""
        for priority in CLASSES:
            entries = {entry: fields["id"] for entry, fields in seen[f"entries {priority}"]}
            ours = [work for work in model.at(*ON_STREAM) if work.priority == priority]
            same(sorted(entries.values()), sorted(work.id for work in ours), f"entries of priority {priority}")
            pending = seen[f"pending {priority}"]
            held = {} if isinstance(pending, Exception) else {entries[p["message_id"]]: p["consumer"] for p in pending}
            expected = {work.id: work.holder or "returned" for work in ours if work.place is not Place.STREAM}
            same(held, expected, f"pending entries of priority {priority}")

    def _running(self, seen: dict[str, Any], model: Model) -> None:
        expected = {
            work.id: (
                work.holder or "returned",
                str(work.fence),
                work.priority,
                work.next,
                work.begun,
                work.known,
                work.agent,
            )
            for work in model.at(Place.HELD, Place.RETURNED)
        }
        found = {}
        for task_id, text in seen["holders"].items():
            h = packed.Holder.unpack(text)
            found[task_id] = (h.incarnation, h.fence, h.priority, h.attempt, h.started_ms > 0, h.known, h.agent)
        same(found, expected, "holders")
        same(seen["agents"], {agent: str(n) for agent, n in model.agents().items()}, "agents")
        working = {name.removeprefix("working:") for name in seen["meta"] if name.startswith("working:")}
        assert working <= set(seen["agents"]), "an agent that runs nothing doesn't work"
        wishes = {task_id: wish.split()[0] for task_id, wish in seen["wishes"].items()}
        same(wishes, {work.id: work.wish for work in model.works.values() if work.wish}, "wishes")
        assert wishes.keys() <= found.keys(), "only what somebody holds can be asked to stop"

    def _beside(self, seen: dict[str, Any], model: Model) -> None:
        for name, place in (("delayed", Place.DELAYED), ("parked_agent", Place.NO_AGENT)):
            members = {(w.agent, w.priority, w.next, w.id) for w in model.at(place)}
            same({packed.Member.unpack(member) for member, _ in seen[name]}, members, name)
        bound = [member.split("/") for member, _ in seen["parked_concurrency"]]
        same({f"{run}/{step}" for run, _, step in bound}, {w.id for w in model.at(Place.BOUND)}, "parked:concurrency")
        same(
            {member for member, _ in seen["parked_interrupt"]},
            {w.id for w in model.at(Place.ASIDE)},
            "parked:interrupt",
        )

    def _workers(self, seen: dict[str, Any], model: Model) -> None:
        seconds, micros = seen["time"]
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        leases = {
            name: "gone" if not score else "live" if score > now_ms else "over"
            for name, score in seen["leases"]
            if name != "returned"
        }
        workers = model.workers.values()
        same(leases, {w.name: w.lease for w in workers if w.lease}, "leases")
        same(set(seen["fenced"]), {w.name for w in workers if w.fenced}, "fenced")
        claims = {name: int(last.split(FS)[0]) for name, last in seen["claims"].items()}
        same(claims, {w.name: w.number for w in workers if w.known}, "claims")
        same(set(seen["workers"]), {w.name for w in workers if w.shown}, "workers")
        draining = {name.removeprefix("drain:") for name in seen["meta"] if name.startswith("drain:")}
        same(draining, model.draining, "draining")

    def _definitions(self, seen: dict[str, Any], model: Model) -> None:
        counts = {name: int(n) for name, n in seen["meta"].items() if name.startswith("ref:")}
        same(counts, {f"ref:{digest}": n for digest, n in model.references().items()}, "references to definitions")
        same({name.rpartition(":")[2] for name in seen["definitions"]}, model.digests, "definitions")

    def _moved(self, work: Work) -> None:
        before = self.states.get(work.id, work.state)
        self.states[work.id] = work.state
        if before is not work.state:
            assert work.state in TRANSITIONS[before], f"{work.id}: {before} → {work.state}"
            self.moves.add((before, work.state))

    def _run(self, seen: list[Any], run: Run) -> None:
        record, life, steps, steps_life, results, results_life = seen
        before = self.run_states.get(run.id, run.state)
        assert before is run.state or run.state in _RUN_MOVES.get(before, RunState), f"{run.id}: {before} → {run.state}"
        self.run_states[run.id] = run.state
        expected = {
            "state": run.state.value,
            "active": run.active(),
            "parked": sum(step.place is Place.BOUND for step in run.steps.values()),
            "completed": run.done(),
            "failed": run.failed(),
            "ends": sum(step.state is TaskState.COMPLETED for step in run.ends()),
        }
        assert int(record.get("unplaced", 0)) == run.unplaced()
        same({name: record[name] for name in expected}, {name: str(n) for name, n in expected.items()}, run.id)
        assert ("finished" in record) is run.over
        same(set(steps), set(run.steps), run.id)
        for name, text in steps.items():
            found, step = packed.Step.unpack(text), run.steps[name]
            same((found.state, found.agent, found.left), (step.state.value, step.agent, run.left(step)), step.id)
            assert (found.finished_ms > 0) is step.over, step.id
            _attempt(step, found.attempt)
        ended = {name for name, step in run.steps.items() if step.over and step.state is not TaskState.SKIPPED}
        same(set(results), ended, f"results of {run.id}")
        for left_ms, there in ((life, True), (steps_life, bool(steps)), (results_life, bool(results))):
            assert left_ms == -2 if not there else left_ms > 0 if run.over else left_ms == -1, run.id

    async def _figures(self, model: Model) -> None:
        seen = await figures.figures(self.crew.client, self.crew.keys)
        classes = []
        for priority in CLASSES:
            ours = [work for work in model.at(*ON_STREAM) if work.priority == priority]
            held = sum(work.place is Place.HELD for work in ours)
            classes.append((len(ours) - held, held, len(ours) > held))
        same([(c.waiting, c.running, c.oldest_ms is not None) for c in seen.classes], classes, "figures")
        same((seen.running, seen.delayed), (len(model.at(Place.HELD)), len(model.at(Place.DELAYED))), "figures")
        parked = {"concurrency": Place.BOUND, "agent": Place.NO_AGENT, "interrupt": Place.ASIDE}
        same(seen.parked_by, {"limit": 0, **{name: len(model.at(place)) for name, place in parked.items()}}, "figures")
        same((seen.dead, seen.refused), (len(model.letters), model.refused), "figures")
        live = [worker for worker in model.workers.values() if worker.lease == "live"]
        draining = sum(worker.host in model.draining for worker in live)
        same((seen.workers, seen.draining), (len(live), draining), "figures")

    def compare_ends(self, model: Model) -> None:
        """Nothing ended more often than it was put to work."""
        ends = Counter(task_id for kind, task_id, _ in model.told if kind != "run")
        known = Counter({work.id: work.ends for work in model.works.values() if work.ends})
        same(ends, known + model.ended, "ends")


def _task(seen: tuple[dict[str, str], int], work: Work) -> None:
    record, life = seen
    same(record.get("state"), work.state.value, work.id)
    assert ("result" in record) is ("finished" in record) is work.over, work.id
    assert life > 0 if work.over else life == -1, work.id
    _attempt(work, int(record.get("attempt", "0")))


def _attempt(work: Work, recorded: int) -> None:
    """Where the number of the last attempt is what the next one is counted from."""
    if work.last is not None:
        same(recorded, work.last, work.id)
    elif work.place in (Place.NO_AGENT, Place.ASIDE, Place.DELAYED):
        same(recorded, work.next - 1, work.id)
