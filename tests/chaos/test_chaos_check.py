"""The verdict of `make chaos` finds what it is there to find."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from bench.chaos_check import Beginning, Evidence, Stored, judge
from bench.chaos_work import Work, ends, state, value_of

from watchbill.tasks import Priority

pytestmark = pytest.mark.pure

TASK, RUN, BAD = "task", "run", "bad"
PID, OTHER = 1, 2


def work(name: str, agent: str, hopeless: str = "") -> Work:
    return Work(name, agent, "", 10, hopeless, Priority.NORMAL, 0.0, alone=False, waited=True)


WORK = [work(TASK, "one"), work(RUN, ""), work(BAD, "two", "two")]
FIRST, SECOND = f"{RUN}/one", f"{RUN}/two"


def stored(value: int | None, attempt: int, fence: int, name: str, finished: float) -> Stored:
    output = None if value is None else {"value": value, "attempt": attempt, "fence": fence}
    result = {"task_id": name, "success": value is not None, "output": output, "error": None}
    return Stored("failed" if value is None else "completed", attempt, fence, finished, json.dumps(result))


def good() -> Evidence:
    """TASK was lost with a process that was hit, failed, and was done; all else went well."""
    one = value_of("one", 10, [])
    two = value_of("two", 10, [one])
    kept = {
        TASK: stored(one, 3, 30, TASK, 4.0),
        FIRST: stored(one, 1, 11, FIRST, 2.0),
        SECOND: stored(two, 1, 21, SECOND, 3.0),
        f"{RUN}/three": stored(value_of("three", 10, [one, two]), 1, 31, f"{RUN}/three", 4.0),
        BAD: stored(None, 1, 12, BAD, 2.0),
    }
    states = {name: end.state for one in WORK for name, end in ends(one).items()}
    return Evidence(
        ledger=[
            Beginning(TASK, 1, 10, PID, 1.0, 1.0),
            Beginning(TASK, 2, 20, OTHER, 2.0, 2.0, ["failed"]),
            Beginning(TASK, 3, 30, OTHER, 3.0, 3.0, ["returned"]),
            Beginning(FIRST, 1, 11, OTHER, 1.0, 1.0, ["returned"]),
            Beginning(SECOND, 1, 21, OTHER, 2.0, 2.0, ["returned"]),
            Beginning(f"{RUN}/three", 1, 31, OTHER, 3.0, 3.0, ["returned"]),
            Beginning(BAD, 1, 12, OTHER, 1.0, 1.0, ["refused"]),
        ],
        stored=kept,
        runs={RUN: "completed"},
        results=[{"id": name, "state": s, "result": kept[name].result} for name, s in states.items()]
        + [{"id": RUN, "state": "completed"}],
        waited={one.id: state(one) == "completed" for one in WORK},
        due={TASK: 0.5},
        left=[],
        hits={PID: [1.5]},
        logs={},
        fenced={},
    )


def lose(e: Evidence) -> None:
    e.stored = {k: v for k, v in e.stored.items() if k != TASK}
    e.results = [r for r in e.results if r["id"] != TASK]


def change(e: Evidence, name: str, **changes: object) -> None:
    e.stored = {**e.stored, name: replace(e.stored[name], **changes)}  # type: ignore[arg-type]


def began(e: Evidence, name: str, attempt: int, fence: int, pid: int, at: float, *ended: str) -> None:
    e.ledger.append(Beginning(name, attempt, fence, pid, at, at, list(ended)))


def early(e: Evidence) -> None:
    e.due = {TASK: 1.25}


FAULTS: dict[str, tuple[Callable[[Evidence], None], str]] = {
    "a lost task": (lose, "task is lost"),
    "a doubled result": (lambda e: setattr(e, "results", [*e.results, e.results[0]]), "task is 2 times on the results"),
    "a result that isn't on the stream": (lambda e: setattr(e, "results", e.results[1:]), "task is 0 times on the"),
    "a wrong result": (
        lambda e: change(e, TASK, result=stored(7, 3, 30, TASK, 4.0).result),
        "task has the wrong result",
    ),
    "a result of another's": (
        lambda e: change(e, FIRST, result=stored(30, 1, 11, TASK, 2).result),
        "has the wrong result",
    ),
    "a zombie's result": (lambda e: change(e, TASK, result=stored(30, 2, 20, TASK, 4).result), "under another fence"),
    "a zombie's write": (lambda e: change(e, TASK, fence=20, attempt=2), "was last begun as attempt 3 under 30"),
    "another end than it must have": (lambda e: change(e, BAD, state="dead"), "bad is dead, and must be failed"),
    "a run that didn't end": (lambda e: setattr(e, "runs", {RUN: "running"}), "run is running, and must be completed"),
    "someone told wrongly": (lambda e: setattr(e, "waited", {BAD: True}), "who waited for bad was told"),
    "run again for no reason": (lambda e: setattr(e, "hits", {}), "nothing had happened to that process"),
    "run again after its end": (lambda e: began(e, TASK, 3, 9, OTHER, 5.0), "process 2 began task when"),
    "run twice under a fence": (
        lambda e: began(e, BAD, 1, 12, OTHER, 1.1, "refused"),
        "begun twice under the fence 12",
    ),
    "an end that its agent never saw": (lambda e: e.ledger[6].ends.clear(), "bad is failed, but its agent saw no end"),
    "a result without a run": (lambda e: e.ledger.remove(e.ledger[6]), "bad has a result, and never ran"),
    "attempts that go back": (lambda e: setattr(e.ledger[0], "attempt", 9), "attempt 2 came after attempt 9"),
    "a step before its time": (lambda e: setattr(e.ledger[4], "fence", 5), "began before the step that it depends on"),
    "a task before its time": (early, "task began 0.250 s early"),
    "one that nobody submitted": (lambda e: began(e, "ghost", 1, 1, OTHER, 1.0), "ghost ran, and was never to run"),
    "something left": (lambda e: e.left.append("the key agents (hash)"), "left: the key agents (hash)"),
}


def test_what_is_right_is_not_complained_of() -> None:
    assert judge(WORK, good()) == []


@pytest.mark.parametrize(("do", "says"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_is_found(do: Callable[[Evidence], None], says: str) -> None:
    evidence = good()
    do(evidence)
    evidence.ledger.sort(key=lambda one: (one.id, one.fence))
    assert any(says in wrong for wrong in judge(WORK, evidence)), judge(WORK, evidence)


def test_who_was_stopped_may_wake_on_the_first_step_of_one_task() -> None:
    evidence = good()
    evidence.ledger.insert(0, Beginning(TASK, 1, 9, PID, 5.0, 5.0))
    evidence.hits = {PID: [0.5]}
    assert judge(WORK, evidence) == []
    evidence.ledger.insert(0, Beginning(TASK, 1, 8, PID, 5.0, 5.0))
    assert any("process 1 began task, task when" in wrong for wrong in judge(WORK, evidence))


def test_who_was_taken_for_dead_may_be_followed_by_another_from_then_on() -> None:
    evidence = good()
    evidence.hits, evidence.fenced = {}, {PID: 1.9}
    assert judge(WORK, evidence) == []
    evidence.fenced = {PID: 2.1}
    assert any("nothing had happened to that process" in wrong for wrong in judge(WORK, evidence))


def test_what_a_rolled_back_store_forgot_may_be_done_again() -> None:
    evidence = good()
    evidence.ledger.insert(0, Beginning(TASK, 4, 9, OTHER, 0.9, 0.9, ["returned"]))
    assert any("attempt 1 came after attempt 4" in wrong for wrong in judge(WORK, evidence))
    evidence.rolled_back = [0.95]
    assert judge(WORK, evidence) == []


@pytest.mark.parametrize(
    ("claimed", "rolled_back", "complains"),
    [(1.0, 4.5, False), (1.0, 5.5, True), (4.7, 4.5, True)],
    ids=["between claim and first step", "after the first step", "before the claim"],
)
def test_what_was_held_when_the_store_was_rolled_back_may_begin_late(
    claimed: float, rolled_back: float, complains: bool
) -> None:
    evidence = good()
    change(evidence, TASK, fence=5_000_000)
    for beginning in evidence.ledger:
        if beginning.fence == 30:
            beginning.fence = 5_000_000
    stored_output = json.loads(evidence.stored[TASK].result)
    stored_output["output"]["fence"] = 5_000_000
    change(evidence, TASK, result=json.dumps(stored_output))
    evidence.results = [
        {**r, "result": evidence.stored[TASK].result} if r["id"] == TASK else r for r in evidence.results
    ]
    evidence.ledger.append(Beginning(TASK, 2, int(claimed * 1e6), OTHER, 5.0, 5.0))
    evidence.ledger.sort(key=lambda one: (one.id, one.fence))
    evidence.rolled_back = [rolled_back]
    assert any("process 2 began task when" in wrong for wrong in judge(WORK, evidence)) == complains, judge(
        WORK, evidence
    )


def test_times_of_a_store_whose_clock_was_set_say_nothing() -> None:
    evidence = good()
    early(evidence)
    change(evidence, TASK, finished=1.0)
    assert len(judge(WORK, evidence)) == 2
    evidence.clock_moved = True
    assert judge(WORK, evidence) == []
