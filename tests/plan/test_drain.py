"""Which workers are drained, when a Deployment gets smaller, and who claims again."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from crew_plans import NEW, child, crew

from watchbill.plan import drain
from watchbill.plan.children import Child
from watchbill.plan.drain import PROBED_SECONDS, TOLD_SECONDS, UNPROBED_SECONDS, Fleet, Step, Worker

pytestmark = pytest.mark.pure

OLD = child(crew())


def pods(replicas: int, ready: int | None = None, **changes: Any) -> Child:
    """The Deployment, which its controller has followed."""
    settled = dataclasses.replace(OLD, replicas=replicas, there=replicas, ready=replicas if ready is None else ready)
    return dataclasses.replace(settled, **changes)


def worker(name: str, holds: int = 0, draining: Any = "", of: Child = OLD, **changes: Any) -> Worker:
    made = Worker(name, of.revision, holds, draining, age_seconds=60.0, empty_seconds=PROBED_SECONDS)
    return dataclasses.replace(made, **changes)


def drained(name: str, holds: int = 0, **changes: Any) -> Worker:
    return worker(name, holds, "scaling", **changes)


def step(wanted: int, serving: Child, *workers: Worker, undrained: float = 1e9) -> Step:
    return drain.step(wanted, serving, [], Fleet(workers, undrained))


def test_those_that_hold_least_are_drained_and_no_pod_goes_yet() -> None:
    made = step(2, pods(4), worker("a", 9), worker("b", 1), worker("c"), worker("d", 2))
    assert made == Step(4, drain=("c", "b"))


def test_a_drained_worker_that_is_busy_stays_for_as_long_as_it_takes() -> None:
    assert step(1, pods(2), worker("a", 9), drained("b", 1)) == Step(2)


def test_pods_go_once_their_workers_are_empty_and_the_controller_has_seen_them_not_ready() -> None:
    workers = [worker("a", 9), worker("b", 1), drained("c"), drained("d")]
    assert step(2, pods(4, 4), *workers) == Step(4), "the controller would take any"
    assert step(2, pods(4, 3), *workers) == Step(3), "as many as it has seen"
    assert step(2, pods(4, 2), *workers) == Step(2)


def test_no_pod_goes_while_one_that_works_may_count_as_not_ready() -> None:
    two = (worker("a", 9), drained("c"))
    unsafe: tuple[Step, ...] = (
        step(1, pods(2, 1, there=None), *two),
        step(1, pods(2, 1, there=3), *two),
        step(1, pods(2, 1), worker("a", 9, age_seconds=PROBED_SECONDS - 1), drained("c")),
        step(1, pods(2, 1), worker("a", 9), drained("c", empty_seconds=PROBED_SECONDS - 1)),
        step(1, pods(2, 1), *two, undrained=PROBED_SECONDS - 1),
        step(1, pods(2, 1), *two, worker("who", 1, revision=None)),
        step(1, pods(2, 0), *two),  # its event loop is blocked, say
    )
    assert set(unsafe) == {Step(2)}
    assert step(1, pods(2, 1), *two, worker("local", 5, revision="")) == Step(1), "this one is in no pod"


def test_no_pod_goes_before_the_kubelets_know_who_is_ready_and_not_a_minute_later() -> None:
    """A young worker's pod may not be ready yet, and that of a drained one may still be."""

    def size(works: float | None, empty: float | None, *, age: float = 20.0, emptied: float = 20.0) -> int:
        one, other = worker("a", 9, age_seconds=age), drained("c", empty_seconds=emptied)
        probed = [dataclasses.replace(w, probed_seconds=s) for w, s in ((one, works), (other, empty))]
        return step(1, pods(2, 1), *probed).size

    assert size(None, None) == 1, "they don't say"
    assert size(0.0, 20.0) == size(20.0, 0.0) == 2
    assert size(TOLD_SECONDS - 0.5, 20.0) == size(20.0, TOLD_SECONDS - 0.5) == 2, "the controllers have to hear of it"
    assert size(TOLD_SECONDS, TOLD_SECONDS) == 1
    assert size(TOLD_SECONDS, TOLD_SECONDS, age=PROBED_SECONDS - 1) == 2
    assert size(0.0, 0.0, age=UNPROBED_SECONDS, emptied=UNPROBED_SECONDS) == 1, "nobody asks"
    late = worker("a", 9, age_seconds=3600.0, probed_seconds=0.0), drained("c", empty_seconds=3600.0)
    assert step(1, pods(2, 1), *late, undrained=30.0) == Step(2), "its kubelet took it for drained, and may still"
    assert step(1, pods(2, 1), *late, undrained=UNPROBED_SECONDS) == Step(1)


def test_a_young_worker_that_is_to_leave_and_still_works_may_not_count_as_ready() -> None:
    leaving = drained("b", 1, age_seconds=PROBED_SECONDS - 1)
    assert step(1, pods(3, 2), worker("a", 9), leaving, drained("c")) == Step(3)
    assert step(1, pods(3, 2), worker("a", 9), drained("b", 1), drained("c")) == Step(2)


def test_where_no_worker_has_anything_all_go_without_waiting_for_their_probes() -> None:
    fresh = [drained(name, empty_seconds=0.0) for name in "ab"]
    assert step(0, pods(2, 2), *fresh) == Step(0)
    assert step(0, pods(2, 2), fresh[0], drained("b", 1)) == Step(2)


def test_pods_that_never_started_go_first_and_nobody_is_drained_for_them() -> None:
    """No node has room for them, say."""
    assert step(2, pods(5, 2), worker("a", 9), worker("b", 9)) == Step(2)
    assert step(1, pods(5, 2), worker("a", 9), worker("b", 8)) == Step(2, drain=("b",))
    assert step(1, pods(5, 5), worker("a", 9), worker("b", 8)).size == 5, "they are ready: any may be taken"


def test_pods_on_their_way_out_are_not_missed() -> None:
    """The Deployment has become smaller, and their workers have yet to end."""
    leaving = [drained("c"), drained("d")]
    assert step(2, pods(2, 2), worker("a", 9), worker("b", 9), *leaving) == Step(2)
    assert step(3, pods(2, 2), worker("a", 9), worker("b", 9), *leaving) == Step(3), "too late to take them back"


def test_when_load_comes_back_drained_workers_claim_again_before_new_ones_are_started() -> None:
    four = [worker("a", 9), drained("b", 5), drained("c", 1), drained("d")]
    assert step(2, pods(4, 3), *four) == Step(4, undrain=("b",)), "the one that works on stays longest"
    assert step(4, pods(4, 3), *four) == Step(4, undrain=("b", "c", "d"))
    assert step(6, pods(4, 3), *four) == Step(6, undrain=("b", "c", "d"))
    assert step(4, pods(4, 3, there=None), *four) == Step(5, undrain=("b", "c")), "d's pod may be on its way out"


def test_what_a_person_drained_is_replaced_and_goes_once_it_is_empty_and_is_never_taken_back() -> None:
    two = [worker("a", 9), worker("b", 3, "person")]
    assert step(2, pods(2), *two) == Step(3)
    assert step(2, pods(3), *two, worker("c", 9)) == Step(3)
    assert step(2, pods(3, 2), worker("a", 9), worker("b", 0, "person"), worker("c", 9)) == Step(2)


def test_without_an_answer_of_the_store_more_are_started_and_none_leaves() -> None:
    assert drain.step(5, pods(3), [], None) == Step(5)
    assert drain.step(1, pods(3, 0), [], None) == Step(3)
    assert drain.step(1, pods(1), [pods(3, name="other", revision="other")], None) == Step(1)


# ---------------------------------------------------------------- rollouts

FRESH = dataclasses.replace(child(NEW), replicas=0, there=0)


def rollout(wanted: int, old: Child, new: Child | None, *workers: Worker) -> Step:
    return drain.step(wanted, new, [old], Fleet(workers))


def test_a_rollout_goes_from_one_revision_to_the_other_and_claims_with_no_fewer_than_are_wanted() -> None:
    """Each started pod works a step later, each drained worker is empty two steps later."""
    wanted, old, new = 9, pods(9), FRESH
    workers = [worker(f"old-{n}", 5) for n in range(9)]
    sizes = []
    for _ in range(60):
        made = rollout(wanted, old, new, *workers)
        claiming = [w for w in workers if not w.draining and w.name not in made.drain]
        assert len(claiming) >= wanted
        assert made.size + sum(w.revision == OLD.revision for w in claiming) <= wanted + 2
        sizes.append((made.size, {c.name: n for c, n in made.sizes}.get(old.name, old.replicas)))
        left = sizes[-1][1]
        staying = [w for w in workers if not (w.is_empty and left < old.replicas)]
        workers = [
            dataclasses.replace(w, draining="scaling") if w.name in made.drain
            else dataclasses.replace(w, holds=w.holds - 2 if w.holds > 2 else 0) if w.draining
            else w
            for w in staying
        ]  # fmt: skip
        workers += [worker(f"new-{n}", 5, of=FRESH) for n in range(new.replicas, made.size)]
        empty = sum(w.is_empty for w in workers)
        old = dataclasses.replace(old, replicas=left, there=left, ready=left - empty)
        new = dataclasses.replace(new, replicas=made.size, there=made.size, ready=made.size)
        if old.replicas == 0:
            break
    assert [size for size, _ in sizes[:5]] == [2, 4, 6, 8, 9], "a bounded surge, and in each step the next ones"
    assert (new.replicas, old.replicas) == (9, 0)
    assert rollout(wanted, old, new, *workers).gone == (old,)


def test_of_a_crew_that_wants_fewer_the_old_revision_gives_them_up() -> None:
    new = dataclasses.replace(FRESH, replicas=2, there=2, ready=2)
    workers = [worker("a", 1), worker("b", 1), worker("c", of=new), worker("d", of=new)]
    assert rollout(2, pods(2), new, *workers) == Step(2, drain=("a", "b"))


def test_the_oldest_of_several_revisions_goes_first() -> None:
    older = dataclasses.replace(OLD, name="older", revision="older", created="2026-01-01T00:00:00Z", replicas=1)
    workers = [worker("b"), dataclasses.replace(worker("a", 7), revision="older"), worker("n", of=FRESH)]
    serving = dataclasses.replace(FRESH, replicas=1, there=1, ready=1)
    assert drain.step(2, serving, [pods(1), older], Fleet(workers)).drain == ("a",)


@pytest.mark.parametrize(
    ("old", "new", "known", "wanted"),
    [(4, 0, None, 4), (4, 1, None, 4), (3, 2, None, 4), (4, 1, 4, 4), (3, 1, 4, 4), (0, 4, 3, 4), (1, 1, None, 1)],
)
def test_a_surge_is_not_taken_for_what_was_wanted(old: int, new: int, known: int | None, wanted: int) -> None:
    serving = dataclasses.replace(FRESH, replicas=new)
    fleet = Fleet([worker(f"{n}", 1) for n in range(old)])
    assert drain.wanted_before(serving, [pods(old)], fleet, known) == wanted


def test_drained_workers_count_neither_as_there_nor_as_claiming() -> None:
    fleet = Fleet([worker("a", 1), drained("b", 4)])
    assert (drain.capacity([pods(3)], fleet), drain.claiming([pods(3)], fleet)) == (2, 1)
    assert (drain.capacity([pods(3)], None), drain.claiming([pods(3)], None)) == (3, None)
