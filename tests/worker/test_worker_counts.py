"""What a worker counts of steps, runs and traces, in the form that a scraper asks for."""

from __future__ import annotations

import aiohttp
from prometheus_client import REGISTRY
from workshop import Crew, Make, Process, agent

from waiting import until
from watchbill import metrics
from watchbill.metrics import labels
from watchbill.records import ExecutionMode
from watchbill.tasks import RunState
from watchbill.worker.counts import Counts

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def value(crew: Crew, name: str, **labels: str) -> float:
    of_crew = dict(zip(metrics.OF_CREW, metrics.of_crew(crew.name), strict=True))
    return REGISTRY.get_sample_value(name, of_crew | labels) or 0.0


async def test_steps_and_runs_are_counted_by_how_they_ended_and_runs_are_timed_from_their_submission(
    make_crew: Make,
) -> None:
    crew = await make_crew(
        [agent("a", "Gate"), agent("b", "Brief")], mode=ExecutionMode.PARALLEL, tasks={"max_attempts": 1}
    )

    def counts() -> dict[str, float]:
        steps = {f"step {end}": value(crew, "watchbill_steps_total", outcome=end) for end in ("completed", "cancelled")}
        runs = {end: value(crew, "watchbill_run_seconds_count", outcome=end) for end in ("completed", "cancelled")}
        return steps | runs

    async with crew.in_process():
        await crew.submit("r1")
        await crew.submit("t", "b")
        await crew.result("t")
        await crew.started("r1/a", "r1/b")
        await until(lambda: counts()["step completed"] == 1)
        assert counts() == {"step completed": 1, "step cancelled": 0, "completed": 0, "cancelled": 0}
        crew.open("r1/a")
        assert (await crew.run_result("r1")).status is RunState.COMPLETED
        await until(lambda: counts()["completed"] == 1)
        took = value(crew, "watchbill_run_seconds_sum", outcome="completed")
        assert await lasted(crew, "r1") <= took < await lasted(crew, "r1") + 0.01
        await crew.submit("r2")
        await crew.started("r2/a")
        await until(lambda: counts()["step completed"] == 3)
        await crew.client.cancel(crew.name, "r2")
        await until(lambda: counts()["cancelled"] == 1)
        assert counts() == {"step completed": 3, "step cancelled": 1, "completed": 1, "cancelled": 1}
    assert value(crew, "watchbill_tasks_total", agent="b", outcome="completed") == 3, "two steps and a task"


def test_a_service_with_more_bots_than_labels_names_the_first_and_counts_the_others_together() -> None:
    counts, more = Counts("team/many-bots"), 5
    for number in range(labels.NAMES_MOST + more):
        for _ in range(2):
            counts.ended(f"bot-{number}", "completed", is_step=False)
            counts.ran(f"bot-{number}", 0.5)
    counts.show(0)
    of_crew = {"namespace": "team", "crew": "many-bots"}

    def shown(name: str, agent: str, **more: str) -> float | None:
        return REGISTRY.get_sample_value(name, of_crew | {"agent": agent} | more)

    expected: dict[str, int | None] = {"bot-0": 2, "bot-99": 2, "bot-100": None, labels.OTHER: 2 * more}
    for bot, count in expected.items():
        assert shown("watchbill_tasks_total", bot, outcome="completed") == count
        assert shown("watchbill_task_run_seconds_count", bot) == count
    assert len(counts._outcomes) == len(counts._ran) == labels.NAMES_MOST + 1, "nor does it remember more"


async def lasted(crew: Crew, run_id: str) -> float:
    """The seconds from a run's submission to its end, as the store has it."""
    submitted, ended = await crew.redis.hmget(crew.keys.run(run_id), "submitted", "finished")
    return (int(ended) - int(submitted)) / 1000


async def test_a_trace_is_the_example_of_its_tasks_time_for_whoever_asks_for_openmetrics(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"})
    worker = await crew.worker(health=True)
    await crew.submit("untraced", "a", metadata={"traceparent": "garbage"})
    await crew.submit("unrecorded", "a", metadata={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-00"})
    await crew.results(["untraced", "unrecorded"])
    assert "trace_id" not in await scraped(worker, OPEN_METRICS)
    await crew.submit("t", "a", metadata={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
    await crew.result("t")
    assert "trace_id" not in await scraped(worker, "text/plain")

    async def is_shown() -> bool:
        lines = (await scraped(worker, OPEN_METRICS)).splitlines()
        traced = [line for line in lines if f'# {{trace_id="{TRACE}"}} ' in line]
        return len(traced) == 1 and traced[0].startswith("watchbill_task_run_seconds_bucket{")

    await until(is_shown)


async def scraped(worker: Process, accept: str) -> str:
    async with aiohttp.ClientSession() as http, http.get(worker.metrics_url, headers={"Accept": accept}) as answer:
        assert answer.headers["Content-Type"].startswith(accept.partition(";")[0])
        return await answer.text()
