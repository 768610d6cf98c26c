"""The spans of agents in processes of their own, which their worker sends."""

from __future__ import annotations

from typing import Any

import pytest
from test_traces import CONTENT, PARENT, TRACE
from workshop import Make, agent

from otlp_collector import Collector
from watchbill.records import AgentDefinition
from watchbill.testing import FakeModel, ToolCall
from watchbill.tracing import exporting
from watchbill.tracing.forwarding import ALL_MAX_BYTES, SPANS_MAX


def traces(**fields: Any) -> AgentDefinition:
    return agent("plain", "TracesApart", notes=False, tools=["calculator"], **fields)


@pytest.mark.parametrize("content", [False, True])
async def test_models_and_tools_of_a_process_are_in_the_trace_of_its_run(make_crew: Make, content: bool) -> None:
    asks: list[ToolCall | str] = [ToolCall("calculator", {"expression": "1234 * 5678"}), "ANSWER"]
    async with FakeModel(asks) as model:
        guide = AgentDefinition(
            agent_id="guide",
            agent_class="model_hands:ModelApart",
            model="openai-chat:any",
            base_url=model.base_url,
            tools=["calculator"],
            system_prompt="SYSTEM",
        )
        crew = await make_crew([traces(prompt="quiet"), guide])
        with Collector() as collector:
            chosen = {"WATCHBILL_TRACE_CONTENT": "true"} if content else {}
            process = await crew.worker(environment=collector.variables(**chosen))
            await crew.submit("r", prompt="PROMPT", metadata=PARENT)
            assert (await crew.run_result("r")).success
            run = await collector.one("invoke_workflow")
            await process.drain()

    assert {span.trace for span in collector.spans} == {TRACE}
    assert len({span.resource["service.instance.id"] for span in collector.spans}) == 1, "the worker's"
    plainly, guided = sorted(collector.named("process"), key=lambda span: span.start)
    assert {plainly.parent, guided.parent} == {run.id}
    (asked,) = collector.named("invoke_agent guide")
    assert asked.parent == guided.id
    chats = collector.named("chat any")
    assert [(span.parent, span.kind) for span in chats] == [(asked.id, "client")] * 2
    tools = collector.named("execute_tool calculator")
    assert sorted(span.parent for span in tools) == sorted([asked.id, plainly.id])
    for attempt, inner in ((plainly, tools), (guided, chats)):
        assert any(attempt.start <= span.start <= span.end <= attempt.end for span in inner)
    assert all("calculator" in span.attributes["gen_ai.tool.definitions"] for span in chats), "with content or without"
    if content:
        assert {b"PROMPT", b"SYSTEM", b"7006652", b"ANSWER"} <= {told for told in CONTENT if told in collector.raw}
    else:
        assert not [told for told in CONTENT if told in collector.raw]


async def test_a_process_knows_nothing_of_traces_until_one_is_recorded_and_sends_of_no_other(make_crew: Make) -> None:
    crew = await make_crew([traces()])
    with Collector() as collector:
        off = collector.variables(OTEL_TRACES_SAMPLER="parentbased_always_off")
        process = await crew.worker(environment=off, concurrency=1)

        async def output(task_id: str, prompt: str, **options: Any) -> Any:
            await crew.submit(task_id, "plain", prompt, **options)
            return (await crew.result(task_id)).output

        before = await output("before", "quiet")
        traced = await output("traced", "make 2", metadata=PARENT)
        after = await output("after", "make 2")
        await process.drain()

    assert before["pid"] == traced["pid"] == after["pid"]
    assert (before["loaded"], traced["loaded"]) == (False, True)
    assert (traced["trace"], after["trace"]) == (TRACE, f"{exporting._trace_of(crew.name, 'after'):032x}")
    (attempt,) = collector.named("process")
    below = [(span.name, span.trace) for span in collector.spans if span.parent == attempt.id]
    assert sorted(below) == [("execute_tool calculator", TRACE), ("mine", TRACE), ("mine", TRACE)]
    assert len(collector.spans) == len(collector.named("wait")) + 1 + 3


async def test_a_process_that_dies_loses_only_the_spans_that_have_not_ended(make_crew: Make) -> None:
    crew = await make_crew([traces()], tasks={"max_attempts": 1})
    with Collector() as collector:
        process = await crew.worker(environment=collector.variables())
        await crew.submit("t", "plain", "die", metadata=PARENT)
        assert "SIGKILL" in (await crew.result("t")).error
        await process.drain()

    (attempt,) = collector.named("process")
    assert (attempt.trace, attempt.failed, attempt.attributes["watchbill.outcome"]) == (TRACE, True, "dead")
    assert attempt.attributes["error.type"] == "_OTHER"
    (tool,) = collector.named("execute_tool")
    assert tool.parent == attempt.id
    assert not collector.named("ends never")


@pytest.mark.parametrize(
    ("prompt", "kept", "lost"),
    [(f"make {SPANS_MAX + 5}", SPANS_MAX, 6), (f"size {ALL_MAX_BYTES}", 1, 1), (f"make {SPANS_MAX - 1}", SPANS_MAX, 0)],
)
async def test_the_spans_of_one_task_are_bounded_and_what_is_lost_is_logged_once(
    make_crew: Make, prompt: str, kept: int, lost: int
) -> None:
    crew = await make_crew([traces()])
    with Collector() as collector:
        process = await crew.worker(environment=collector.variables())
        await crew.submit("t", "plain", prompt, metadata=PARENT)
        assert (await crew.result("t")).success
        await process.drain()

    (attempt,) = collector.named("process")
    assert len([span for span in collector.spans if span.parent == attempt.id]) == kept
    assert process.log.count("spans of this task are lost") == bool(lost)
    assert f"{lost} spans of this task" in process.log or not lost


async def test_a_span_that_cannot_be_told_costs_neither_the_task_nor_any_other_span(make_crew: Make) -> None:
    crew = await make_crew([traces()])
    with Collector() as collector:
        process = await crew.worker(environment=collector.variables(), concurrency=1)
        for what in ("odd", "make 1"):
            await crew.submit(what[:4], "plain", what, metadata=PARENT)
            assert (await crew.result(what[:4])).error is None
        await process.drain()

    assert (len(collector.named("fine")), len(collector.named("mine")), len(collector.named("process"))) == (1, 1, 2)
    assert "a span of an agent in a process of its own is lost: ValueError" in process.log
    assert "2 spans of this task are lost" in process.log
    assert "2 spans are lost: there is something in them that OTLP can't tell" in process.log
    assert "the collector of traces takes no spans" not in process.log


async def test_what_an_agents_process_forks_makes_spans_that_are_lost_and_harm_nothing(make_crew: Make) -> None:
    crew = await make_crew([traces()])
    with Collector() as collector:
        process = await crew.worker(environment=collector.variables())
        await crew.submit("t", "plain", "fork", metadata=PARENT)
        assert (await crew.result("t")).output["codes"] == [0, 0]
        await process.drain()

    assert not collector.named("forked")
