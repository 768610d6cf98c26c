"""Tasks and steps that wait for approval: where they wait, what is decided, and what the feeds say of it."""

from __future__ import annotations

import pytest
from support import LEASE_MS, Crew, flow_of, library, next_millisecond, server_ms

from watchbill.errors import Conflict, NotFound
from watchbill.plan.approvals import to_begin
from watchbill.plan.why import Reason, explain
from watchbill.store import approvals, control, packed
from watchbill.store.figures import figures
from watchbill.store.queue import Claimed
from watchbill.store.why import seen
from watchbill.tasks import Approval

DAY_MS = 86_400_000


async def ask(crew: Crew, task: Claimed, what: str = "to pay", ttl_ms: int = DAY_MS) -> list[str]:
    return await crew.finish("w", [task], "approval", detail=what, message=f"waits: {what}", ttl_ms=ttl_ms)


async def decide(crew: Crew, task_id: str, verdict: approvals.Verdict = "approved", why: str = "") -> bool:
    return await approvals.decide(crew.client, crew.keys, crew.uid, task_id, verdict, why)


async def marked(
    crew: Crew, task_id: str, mark: str, what: str | None = None, verdict: approvals.Verdict = "approved"
) -> bool:
    return await approvals.decide(crew.client, crew.keys, crew.uid, task_id, verdict, "", what=what, mark=mark)


@pytest.mark.parametrize("task_id", ["t", "r/a"])
async def test_what_waits_for_approval_holds_nothing_and_goes_on_with_the_same_attempt(
    crew: Crew, task_id: str
) -> None:
    if task_id == "t":
        await crew.submit("t")
    else:
        await crew.run("r", flow_of([("a", "b")]))
    (task,) = await crew.take("w")
    assert await ask(crew, task) == ["applied"]
    assert await ask(crew, task) == ["repeated"]
    now = await figures(crew.client, crew.keys)
    assert (now.waiting, now.running, now.delayed) == (0, 0, 1)
    assert await crew.client.hgetall(crew.keys.holders) == {}
    assert await crew.claim("w", 2) == ()
    (known,) = await approvals.read(crew.client, crew.keys, task_id)
    assert (known.what, known.state, known.decided_at) == ("to pay", "waiting", None)
    assert (known.until - known.asked_at).total_seconds() == 86_400
    told = explain(await seen(crew.client, crew.keys, task_id, 3))
    assert (told.reason, told.state) == (Reason.APPROVAL, "approval")
    assert told.message.startswith("it has waited for approval of: to pay, for ")

    assert await decide(crew, task_id, why="it  is\ncheap")
    assert not await decide(crew, task_id)
    with pytest.raises(Conflict, match="somebody has approved it before"):
        await decide(crew, task_id, "rejected")
    (again,) = await crew.take("w", 3)
    assert (again.id, again.attempt) == (task_id, 1)
    (known,) = await approvals.read(crew.client, crew.keys, task_id)
    assert (known.state, known.reason) == ("approved", "it is cheap")
    assert await crew.finish("w", [again]) == ["applied"]
    assert not await decide(crew, task_id)

    kinds = ("mission_help_needed", "agent_resumed")
    feeds = [crew.keys.events, crew.keys.agent_events("a")]
    feeds += [crew.keys.run_events("r")] if task_id == "r/a" else []
    for feed in feeds:
        said = [e for e in await crew.events(feed) if e["event_type"] in kinds]
        assert [(e["event_type"], e["task_id"], e["message"]) for e in said] == [
            ("mission_help_needed", task_id, "waits: to pay"),
            ("agent_resumed", task_id, "approved: it is cheap"),
        ]


async def test_what_can_not_be_decided_says_why(crew: Crew) -> None:
    await crew.submit("t", "other")
    task, other = await crew.take("w")
    with pytest.raises(Conflict, match=r"'t' of crew .* waits for no approval"):
        await decide(crew, "t")
    with pytest.raises(NotFound):
        await decide(crew, "nobody")
    await ask(crew, task, ttl_ms=0)
    with pytest.raises(Conflict, match="nobody decided in time"):
        await decide(crew, "t")
    await crew.finish("w", [other])
    with pytest.raises(Conflict, match="it is completed"):
        await decide(crew, "other")


async def test_when_the_time_is_over_it_is_claimed_once_more(crew: Crew) -> None:
    await crew.submit("t")
    (task,) = await crew.take("w")
    await ask(crew, task, ttl_ms=0)
    (again,) = await crew.take("w", 2)
    assert (again.id, again.attempt) == ("t", 1)
    assert await crew.state("t") == "running"


async def test_an_approval_that_comes_while_its_worker_asks_once_more_is_not_lost(crew: Crew) -> None:
    await crew.submit("t")
    (task,) = await crew.take("w")
    await ask(crew, task)
    member = (await crew.client.zrange(crew.keys.delayed, 0, -1))[0]
    await crew.client.zadd(crew.keys.delayed, {member: 1})  # the clock went back, say
    (task,) = await crew.take("w", 2)
    assert await decide(crew, "t")
    await ask(crew, task)
    assert [one.id for one in await crew.take("w", 3)] == ["t"]
    assert len(await approvals.read(crew.client, crew.keys, "t")) == 1


async def test_a_beginning_with_another_prompt_is_asked_for_anew(crew: Crew) -> None:
    await crew.submit("t")
    (task,) = await crew.take("w")
    await ask(crew, task, packed.pack_asked(to_begin("one")), ttl_ms=DAY_MS)
    (first,) = await approvals.read(crew.client, crew.keys, "t")
    assert await decide(crew, "t", why="fine")
    (again,) = await crew.take("w", 2)
    await ask(crew, again, packed.pack_asked(to_begin("another")), ttl_ms=2 * DAY_MS)
    (known,) = await approvals.read(crew.client, crew.keys, "t")
    assert (known.state, known.details, known.reason, known.decided_at) == ("waiting", '"another"', "", None)
    assert known.asked_at >= first.asked_at
    assert (known.until - known.asked_at).total_seconds() == 2 * 86_400
    assert await crew.claim("w", 3) == ()
    told = [e["message"] for e in await crew.events(crew.keys.events) if e["event_type"] == "mission_help_needed"]
    assert len(told) == 2
    assert await decide(crew, "t", "rejected", "too much")
    assert len(await crew.take("w", 4)) == 1


async def test_who_was_shown_one_prompt_decides_of_no_other(crew: Crew) -> None:
    await crew.submit("t")
    (task,) = await crew.take("w")
    await ask(crew, task, packed.pack_asked(to_begin("one")))
    (shown,) = await approvals.read(crew.client, crew.keys, "t")
    assert await marked(crew, "t", shown.mark, "")
    assert not await marked(crew, "t", shown.mark), "which is so already"
    (task,) = await crew.take("w", 2)
    await ask(crew, task, packed.pack_asked(to_begin("another")))
    for what in (None, ""):
        for verdict in ("approved", "rejected"):
            with pytest.raises(Conflict, match=r"mark '\w{12}': it never asked for that, or has asked anew since"):
                await marked(crew, "t", shown.mark, what, verdict)
    (other,) = await approvals.read(crew.client, crew.keys, "t")
    assert (other.state, other.mark == shown.mark) == ("waiting", False)
    assert await marked(crew, "t", other.mark)
    (task,) = await crew.take("w", 3)
    await crew.finish("w", [task])
    await crew.assert_idle()


async def test_a_decision_that_is_overtaken_by_another_prompt_is_refused(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read what waits, and somebody else decides before it does."""
    await crew.submit("t")
    (task,) = await crew.take("w")
    await ask(crew, task, packed.pack_asked(to_begin("one")))
    (shown,) = known = await approvals.read(crew.client, crew.keys, "t")

    async def read(*_: object) -> list[Approval]:
        return known

    assert await decide(crew, "t")
    (task,) = await crew.take("w", 2)
    await next_millisecond(crew)
    await ask(crew, task, packed.pack_asked(to_begin("another")))
    with monkeypatch.context() as patched:
        patched.setattr(approvals, "read", read)
        with pytest.raises(Conflict, match="has asked anew since"):
            await marked(crew, "t", shown.mark)
    (other,) = await approvals.read(crew.client, crew.keys, "t")
    assert other.state == "waiting"


async def test_a_mark_names_one_of_several_approvals(crew: Crew) -> None:
    await crew.submit("t")
    (task,) = await crew.take("w")
    await ask(crew, task, packed.pack_asked({"call pay #1": "{}", "call pay #2": "{}"}))
    first, second = await approvals.read(crew.client, crew.keys, "t")
    with pytest.raises(Conflict, match="has asked anew since"):
        await marked(crew, "t", first.mark, second.what)
    assert await marked(crew, "t", second.mark, None, "rejected")
    assert [one.state for one in await approvals.read(crew.client, crew.keys, "t")] == ["waiting", "rejected"]
    await crew.submit("other")
    (other,) = [task for task in await crew.take("w", 2) if task.id == "other"]
    with pytest.raises(Conflict, match="waits for no approval"):
        await marked(crew, other.id, first.mark)


@pytest.mark.parametrize(("before", "now"), [("one", ""), ("", "one"), ("one", "one")])
async def test_a_beginning_that_is_asked_for_without_a_prompt_is_the_same(crew: Crew, before: str, now: str) -> None:
    await crew.submit("t")
    (task,) = await crew.take("w")
    await ask(crew, task, packed.pack_asked({"": before}))
    assert await decide(crew, "t", why="fine")
    (again,) = await crew.take("w", 2)
    await ask(crew, again, packed.pack_asked({"": now}))
    (known,) = await approvals.read(crew.client, crew.keys, "t")
    assert (known.state, known.reason, known.details) == ("approved", "fine", before)


async def test_what_waits_can_be_interrupted_and_is_decided_all_the_same(crew: Crew) -> None:
    of_crew = crew.client, crew.keys, crew.uid
    await crew.submit("t", "u")
    for task in await crew.take("w"):
        await ask(crew, task)
        assert await control.interrupt(*of_crew, task.id, "later")
    assert await decide(crew, "t")
    assert await crew.claim("w", 2) == ()
    assert await control.resume(*of_crew, "t")
    assert await control.resume(*of_crew, "u")
    assert (await crew.state("t"), await crew.state("u")) == ("waiting", "approval")
    assert await decide(crew, "u", "rejected", "too dear")
    assert [one.id for one in await crew.claim("w", 3)] == ["t", "u"]


async def test_what_waits_is_cancelled_at_once(crew: Crew) -> None:
    of_crew = crew.client, crew.keys, crew.uid
    await crew.submit("t")
    await crew.run("r", library("a", "b"))
    for task in await crew.take("w"):
        await ask(crew, task)
    assert await control.cancel(*of_crew, "t", "no more", LEASE_MS)
    assert await control.cancel(*of_crew, "r", "no more", LEASE_MS)
    await crew.assert_idle()
    with pytest.raises(Conflict, match="it is cancelled"):
        await decide(crew, "t")


async def test_a_run_tells_the_approvals_of_its_steps(crew: Crew) -> None:
    await crew.run("r", library("a", "b"))
    for task in await crew.take("w"):
        await ask(crew, task, f"what {task.agent} does")
    found = await approvals.of_work(crew.client, crew.keys, "r")
    assert {step: [one.what for one in known] for step, known in found.items()} == {
        "r/a": ["what a does"],
        "r/b": ["what b does"],
    }
    assert found["r/a"][0].until.timestamp() * 1000 > await server_ms(crew.client)
    with pytest.raises(NotFound):
        await approvals.of_work(crew.client, crew.keys, "nobody")


async def test_of_several_approvals_one_is_named_and_what_comes_after_is_not_decided(crew: Crew) -> None:
    await crew.submit("t")
    (task,) = await crew.take("w")
    both = packed.pack_asked({"call a": '{"x": 1}', "call b": ""})
    assert await ask(crew, task, both) == ["applied"]
    with pytest.raises(Conflict, match="Say which one is meant: 'call a', 'call b'"):
        await decide(crew, "t")
    with pytest.raises(Conflict, match="waits for no approval of 'call c'"):
        await approvals.decide(crew.client, crew.keys, crew.uid, "t", "approved", "", what="call c")
    assert await approvals.decide(crew.client, crew.keys, crew.uid, "t", "rejected", "no", what="call b")
    (again,) = await crew.take("w", 2)
    assert (again.id, again.attempt) == ("t", 1)
    await ask(crew, again, packed.pack_asked({"call a": '{"x": 1}'}))
    assert await decide(crew, "t")
    assert not await approvals.decide(crew.client, crew.keys, crew.uid, "t", "rejected", "", what="call b")
    known = await approvals.read(crew.client, crew.keys, "t")
    assert [(one.what, one.state, one.reason, one.details) for one in known] == [
        ("call a", "approved", "", '{"x": 1}'),
        ("call b", "rejected", "no", ""),
    ]
    said = [e["message"] for e in await crew.events(crew.keys.events) if e["event_type"] == "mission_help_needed"]
    assert len(said) == 1, "what was asked before is not told again"
