"""The spans of tasks and runs, from real workers, as a collector gets them over HTTP."""

from __future__ import annotations

from typing import Any

from workshop import Make, agent

from otlp_collector import Collector
from watchbill.records import AgentDefinition
from watchbill.testing import FakeModel, ToolCall
from watchbill.tracing import exporting

TRACE, SUBMITTED = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{SUBMITTED}-01"}
QUICK = {"backoff_seconds": 0.01, "max_attempts": 3}
CONTENT = (b"PROMPT", b"SYSTEM", b"1234 * 5678", b"7006652", b"ANSWER", b"the network is away")


async def test_a_run_is_one_trace_with_each_attempt_model_and_tool_and_without_content(make_crew: Make) -> None:
    answers: list[ToolCall | str] = [ToolCall("calculator", {"expression": "1234 * 5678"}), "ANSWER"]
    async with FakeModel(answers) as model:
        guide = AgentDefinition(
            agent_id="guide",
            agent_class="LLMAgent",
            model="openai-chat:any",
            base_url=model.base_url,
            tools=["calculator"],
            system_prompt="SYSTEM",
        )
        plain = agent("plain", "Inspect", notes=False, tools=["calculator"])
        crew = await make_crew([plain, guide, agent("shaky", "Shaky", prompt="away:1")], tasks=QUICK)
        with Collector() as collector:
            process = await crew.worker(environment=collector.variables())
            await crew.submit("r", prompt="PROMPT", metadata=PARENT)
            assert (await crew.run_result("r")).success
            run = await collector.one("invoke_workflow")
            await process.drain()

    assert {span.trace for span in collector.spans} == {TRACE}
    name = crew.name.partition("/")[2]
    assert (run.name, run.parent, run.kind) == (f"invoke_workflow {name}", SUBMITTED, "internal")
    assert (run.attributes["watchbill.outcome"], run.failed) == ("completed", False)
    attempts = sorted(collector.named(f"process {crew.name}"), key=lambda span: span.start)
    assert [
        (a.attributes["gen_ai.agent.name"], a.attributes["watchbill.attempt"], a.attributes["watchbill.outcome"])
        for a in attempts
    ] == [("plain", 1, "completed"), ("guide", 1, "completed"), ("shaky", 1, "retry"), ("shaky", 2, "completed")]
    said = [(a.failed, a.attributes.get("error.type"), a.message) for a in attempts]
    assert said == [(False, None, "")] * 2 + [(True, "OSError", ""), (False, None, "")]
    plainly, guided, *_ = attempts
    assert (
        guided.attributes.items()
        >= {
            "messaging.system": "watchbill",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": crew.name,
            "messaging.message.id": "r/guide",
            "messaging.message.conversation_id": "r",
            "watchbill.step": "guide",
        }.items()
    )
    waits = sorted(collector.named(f"wait {crew.name}"), key=lambda span: span.start)
    for attempt, wait in zip(attempts, waits, strict=True):
        assert (attempt.kind, attempt.parent, attempt.links) == ("consumer", run.id, ((TRACE, SUBMITTED),))
        assert (wait.parent, wait.end, wait.links) == (run.id, attempt.start, ())
        assert run.start <= wait.end
        assert run.start - 1_000_000_000 < wait.start <= wait.end
        assert attempt.end <= run.end
    (asked,) = collector.named("invoke_agent guide")
    assert asked.parent == guided.id
    assert [span.parent for span in collector.named("chat any")] == [asked.id] * 2
    assert {span.parent for span in collector.named("execute_tool calculator")} == {asked.id, plainly.id}
    for told in CONTENT:
        assert told not in collector.raw


async def test_a_trace_goes_on_when_a_worker_is_killed_though_nobody_gave_it_an_id(make_crew: Make) -> None:
    crew = await make_crew([agent("one", "Brief"), agent("two", "SecondTime")], lease_seconds=1)
    with Collector() as collector:
        first = await crew.worker(environment=collector.variables())
        await crew.submit("r", prompt="0")
        await crew.started("r/two")
        before = await collector.one("process", **{"watchbill.step": "one"})
        (dead,) = await crew.incarnations(first)
        first.kill()
        second = await crew.worker(environment=collector.variables())
        assert (await crew.run_result("r")).success
        run = await collector.one("invoke_workflow")
        await second.drain()

    after = await collector.one("process", **{"watchbill.step": "two"})
    assert after.attributes["watchbill.attempt"] == 2
    assert after.attributes["watchbill.taken_over_from"] == dead
    assert {span.trace for span in collector.spans} == {run.trace}
    assert (before.parent, after.parent, run.parent) == (run.id, run.id, "")
    assert before.resource["service.instance.id"] != after.resource["service.instance.id"]


async def test_a_run_that_fails_and_a_task_of_its_own_say_so(make_crew: Make) -> None:
    crew = await make_crew({"a": "Shaky"}, tasks=QUICK)
    with Collector() as collector:
        process = await crew.worker(environment=collector.variables(WATCHBILL_TRACE_CONTENT="true"))
        await crew.submit("r", prompt="hopeless")
        await crew.submit("t", "a", "away:1", metadata=PARENT)
        await crew.submit("u", "a", "away:1")
        await crew.results(["r", "t", "u"])
        run = await collector.one("invoke_workflow")
        await process.drain()

    assert (run.failed, run.attributes["error.type"]) == (True, "failed")
    (failed,) = collector.named("process", **{"watchbill.run": "r"})
    assert failed.attributes["watchbill.outcome"] == "failed"
    assert failed.message.startswith(f"{failed.attributes['error.type']}: "), "content was asked for"
    for task_id, parent, links in (("t", SUBMITTED, ((TRACE, SUBMITTED),)), ("u", "", ())):
        attempts = [span for span in collector.spans if span.attributes.get("messaging.message.id") == task_id]
        assert sorted(span.name.split()[0] for span in attempts) == ["process", "process", "wait", "wait"]
        assert {span.parent for span in attempts} == {parent}
        assert {span.links for span in attempts if span.kind == "consumer"} == {links}
        assert len({span.trace for span in attempts}) == 1, "two attempts, one trace"


async def test_a_share_of_traces_is_recorded_and_a_submitter_decides_of_its_own(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"})

    def is_recorded(task_id: str) -> bool:
        return exporting._trace_of(crew.name, task_id) % 2**64 < 2**63

    known = [f"t{n}" for n in range(40)]
    expected = {task_id for task_id in known if is_recorded(task_id)}
    assert 0 < len(expected) < len(known)
    share = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    with Collector() as collector:
        process = await crew.worker(environment=collector.variables(**share))
        for task_id in known:
            await crew.submit(task_id, "a", "0")
        for flag in ("00", "01"):
            for low in ("0" * 15 + "1", "f" * 16):  # the least and the greatest that a ratio looks at
                parent = f"00-{'a' * 16}{low}-{SUBMITTED}-{flag}"
                await crew.submit(f"{flag}-{low[-1]}", "a", "0", metadata={"traceparent": parent})
        await crew.results([*known, "00-1", "00-f", "01-1", "01-f"])
        await process.drain()

    recorded = {str(span.attributes["messaging.message.id"]) for span in collector.named("process")}
    assert recorded == expected | {"01-1", "01-f"}


async def test_what_an_agent_submits_carries_the_trace_on_with_tracing_or_without(
    make_crew: Make, redis_url: str
) -> None:
    """Also from a process of its own."""
    url = {"url": redis_url}
    agents = [agent(name, kind, notes=False, config=url) for name, kind in (("a", "Submits"), ("b", "SubmitsApart"))]
    crew = await make_crew([*agents, agent("child", "Brief", prompt="0")])

    async def child_of(task_id: str, name: str) -> Any:
        await crew.submit(task_id, name, metadata=PARENT)
        return await crew.result((await crew.result(task_id)).output)

    process = await crew.worker()
    assert [(await child_of(name, name)).metadata for name in "ab"] == [PARENT] * 2
    await process.drain()
    with Collector() as collector:
        process = await crew.worker(environment=collector.variables())
        children = {name: await child_of(f"traced-{name}", name) for name in "ab"}
        await process.drain()

    for name, child in children.items():
        (asked,) = collector.named("process", **{"gen_ai.agent.name": name})
        (sent,) = collector.named(f"submit {crew.name}", **{"messaging.message.id": child.task_id})
        (done,) = collector.named("process", **{"messaging.message.id": child.task_id})
        assert child.metadata == {"traceparent": f"00-{TRACE}-{sent.id}-{child.metadata['traceparent'][-2:]}"}
        assert (sent.kind, sent.trace, sent.parent) == ("producer", TRACE, asked.id)
        assert (done.trace, done.parent, done.links) == (TRACE, sent.id, ((TRACE, sent.id),))
