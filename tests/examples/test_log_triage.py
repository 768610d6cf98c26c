"""The log-triage example tells the truth: its answer against counts made here, from the log itself."""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import timedelta
from typing import Any

import pytest
from triage import EXAMPLE, QUESTION, answer, findings, parsing, ranking, reporting

from watchbill import testing
from watchbill.agents import AgentLoader
from watchbill.api.parse import parse as parse_yaml
from watchbill.plan import prompts, submission
from watchbill.records import CrewDefinition, from_crew

pytestmark = pytest.mark.pure

# ---- the log that comes with it
DEMO = (EXAMPLE / "app.log").read_text(encoding="utf-8")

ENTRY = re.compile(
    r"^(?:2026-11-21 (?P<text>\d\d:\d\d:\d\d),\d{3} (?P<level>[A-Z]+) \[(?P<name>[\w.]+)\]"
    r'|\{"ts": "2026-11-21T(?P<json>\d\d:\d\d:\d\d)\.\d{3}\+00:00", '
    r'"level": "(?P<jlevel>\w+)", "logger": "(?P<jname>[\w.]+)"'
    r"|\d+:M 21 Nov 2026 (?P<redis>\d\d:\d\d:\d\d)\.\d{3} (?P<mark>[*#]))"
)


def entries() -> list[tuple[str, str, str, str]]:
    """(time, level, component, whole text) of every record of the demo log, read in another way than the example's."""
    found: list[list[str]] = []
    for line in DEMO.splitlines():
        if match := ENTRY.match(line):
            at = match["text"] or match["json"] or match["redis"]
            level = match["level"] or (match["jlevel"] or "").upper() or {"*": "INFO", "#": "WARNING"}[match["mark"]]
            found.append([at, level, match["name"] or match["jname"] or "redis", line])
        elif line.startswith(
            (" ", "Traceback", "The above", "redis.exceptions", "asyncio.exceptions", "Type", "Timeout")
        ):
            found[-1][3] += "\n" + line
    return [(at, level, name, text) for at, level, name, text in found]


ENTRIES = entries()

ONSET, END = "01:33:04", "01:34:05"


def is_5xx(entry: tuple[str, str, str, str]) -> bool:
    return entry[2] == "http" and re.search(r'" 5\d\d ', entry[3]) is not None


@pytest.fixture(scope="module")
def demo() -> dict[str, Any]:
    return findings(DEMO, QUESTION)


def test_the_demo_log_is_of_a_size_to_be_shipped_and_names_no_place_of_the_machine_it_was_recorded_on() -> None:
    assert 3_000 <= DEMO.count("\n") <= 6_000
    assert len(DEMO.encode()) <= 800_000
    assert not re.search(r"/(root|home|work|tmp|Users)\b", DEMO)
    assert set(re.findall(r'File \\?"(/[^/]+/[^/]+)', DEMO)) == {"/srv/shop", "/srv/python"}


def test_every_line_of_the_demo_log_is_accounted_for(demo: dict[str, Any]) -> None:
    log = demo["log"]
    assert log["lines"] == sum(1 for line in DEMO.splitlines() if line.strip())
    assert log["records"] == len(ENTRIES)
    assert log["formats"] == {
        "text": sum(text.startswith("2026") for *_, text in ENTRIES),
        "json": sum(text.startswith("{") for *_, text in ENTRIES),
        "redis": sum(name == "redis" for _, _, name, _ in ENTRIES),
    }
    assert log["unparsed_samples"] == [
        line for line in DEMO.splitlines() if line.startswith("supplier-feed") or "signal-handler" in line
    ]
    assert log["unparsed"] == 2
    for level in ("INFO", "WARNING", "ERROR"):
        assert log["levels"][level] == sum(entry[1] == level for entry in ENTRIES)


def test_the_incident_is_found_from_its_first_failure_to_its_last(demo: dict[str, Any]) -> None:
    (incident,) = demo["incidents"]
    out_of_memory = [entry for entry in ENTRIES if entry[1] in ("ERROR", "WARNING") and "maxmemory" in entry[3]]
    assert out_of_memory[0][0] == ONSET
    assert out_of_memory[-1][0] == END
    assert (incident["onset"], incident["end"]) == (f"2026-11-21 {ONSET}", f"2026-11-21 {END}")
    assert incident["seconds"] == 61
    assert not incident["ongoing"]

    during = [entry for entry in ENTRIES if ONSET <= entry[0] <= END]
    assert incident["errors"] == sum(entry[1] == "ERROR" for entry in during)
    assert incident["warnings"] == sum(entry[1] == "WARNING" for entry in during)

    buckets: dict[int, int] = {}
    for entry in ENTRIES:
        if entry[1] == "ERROR" or is_5xx(entry):
            h, m, s = map(int, entry[0].split(":"))
            bucket = (h * 3600 + m * 60 + s) // 5 * 5
            buckets[bucket] = buckets.get(bucket, 0) + 1
    peak = max(buckets, key=lambda b: buckets[b])
    assert incident["peak_count"] == buckets[peak]
    assert incident["peak"] == f"2026-11-21 {timedelta(seconds=peak)!s:0>8}"


def test_the_kinds_of_failure_are_counted_and_in_the_order_they_began(demo: dict[str, Any]) -> None:
    def one(kind: str, *phrases: str) -> tuple[str, int, str]:
        found = []
        for at, level, _, text in ENTRIES:
            head, last = text.split("\n")[0], text.split("\n")[-1]
            if level in ("ERROR", "WARNING") and any(p in last or (p in head and last == head) for p in phrases):
                found.append(at)
        return kind, len(found), found[0]

    kinds = [(k["kind"], k["count"], k["first"][11:]) for k in demo["incidents"][0]["kinds"] if k["named"]]
    failed = [entry for entry in ENTRIES if is_5xx(entry)]
    breaker = one("circuit breaker", "breaker")
    of_breaker_only = sum("breaker opened" in text and "No connection" in text for *_, text in ENTRIES)
    pool, pool_count, pool_first = one("connection pool exhausted", "No connection available")
    timeout, timeout_count, timeout_first = one("timeout", "Timeout reading", "TimeoutError)")
    timeout_count -= sum("breaker opened" in text and "Timeout reading" in text for *_, text in ENTRIES)
    assert kinds == [
        one("out of memory", "maxmemory"),
        ("requests answered 5xx", len(failed), failed[0][0]),
        (timeout, timeout_count, timeout_first),
        (pool, pool_count - of_breaker_only, pool_first),
        breaker,
    ]


def test_the_answer_names_the_cause_what_set_it_off_and_what_ended_it() -> None:
    said = answer(DEMO, QUESTION)
    head = said.partition("## Look at first")[0]
    assert f"> {QUESTION}" in head
    assert "**Most likely cause: out of memory.**" in head
    assert f"{ONSET} in `worker.feed`" in head
    assert "import of supplier feed started" in head
    assert "import cancelled by operator, deleting what it wrote" in head
    assert "import cancelled" not in said.partition("## Probably noise")[2]
    first = next(line for line in said.splitlines() if line.startswith("1. "))
    assert "`worker.feed`" in first
    assert "import of supplier feed started" in first
    ended = head.partition("**What came with its end**")[2].partition("\n")[0]
    assert re.findall(r"`([a-z][^`]+)`", ended) == [
        "worker.feed",
        "import cancelled by operator, deleting what it wrote",
        "worker.feed",
        "deleted (keys=5288)",
    ]
    started = next(entry[0] for entry in ENTRIES if "import of supplier feed started" in entry[3])
    assert f"| {started} | first time: `worker.feed`" in said


def test_the_share_of_failed_requests_is_told_before_during_and_after() -> None:
    def told(when: str, chosen: list[tuple[str, str, str, str]]) -> str:
        requests = [entry for entry in chosen if entry[2] == "http"]
        failed = sum(map(is_5xx, requests))
        return f"{when} {failed:,} of {len(requests):,} ({100 * failed / len(requests):.1f} %)"

    said = answer(DEMO)
    assert told("before", [e for e in ENTRIES if e[0] < ONSET]) in said
    assert told("during", [e for e in ENTRIES if ONSET <= e[0] <= END]) in said
    assert told("after", [e for e in ENTRIES if e[0] > END]) in said


def test_every_group_in_the_tables_has_the_count_that_the_log_has(demo: dict[str, Any]) -> None:
    for group in demo["groups"] + demo["noise"]:
        wanted = re.escape(group["template"])
        for mask in ("<n>", "<id>", "<hex>", "<dur>", "<addr>", "<text>"):
            wanted = wanted.replace(re.escape(mask), r"\S.*?")
        of_component = [entry for entry in ENTRIES if entry[2] == group["component"]]
        if group["component"] == "http":
            status = re.search(r"\d+", group["level"])
            assert status is not None
            wanted = rf"{wanted} HTTP/1.1\" {status.group()} "
        elif group["kind"] == "out of memory":
            of_component = [entry for entry in of_component if "maxmemory" in entry[3]]
        matching = [entry for entry in of_component if re.search(wanted, entry[3].replace("\\n", "\n"))]
        assert group["count"] == len(matching), group
        assert (group["first"][11:], group["last"][11:]) == (matching[0][0], matching[-1][0])


def test_an_error_that_goes_on_all_the_time_is_noise_and_not_the_cause(demo: dict[str, Any]) -> None:
    bugs = [entry for entry in ENTRIES if "no recommendations for" in entry[3]]
    assert any(entry[0] < ONSET for entry in bugs)
    assert any(entry[0] > END for entry in bugs)
    (noise,) = [group for group in demo["noise"] if group["level"] == "ERROR"]
    assert (noise["component"], noise["kind"], noise["count"]) == ("shop.recommend", "TypeError", len(bugs))
    assert "TypeError" not in [kind["kind"] for kind in demo["incidents"][0]["kinds"]]
    assert f"{len(bugs)}× ERROR `shop.recommend`" in answer(DEMO).partition("## Probably noise")[2]


def test_a_question_about_a_part_gets_an_answer_about_that_part() -> None:
    said = answer(DEMO, "Why did checkouts fail?")
    section = said.partition("## You asked about ")[2].partition("\n## ")[0]
    failed = sum("unhandled error in POST /checkout" in entry[3] for entry in ENTRIES)
    assert f"| {failed} | ERROR | shop.web |" in section
    assert "/carts/" not in section
    assert "## You asked about" not in answer(DEMO, QUESTION)

    health = answer(DEMO, "anything wrong with shop.health?").partition("## You asked about ")[2].partition("\n## ")[0]
    assert "`shop.health`" in health.splitlines()[0]
    assert "readiness check failed" in health

    assert "timeout" in answer(DEMO, "what about the timeouts").partition("## You asked about ")[2].splitlines()[0]


def test_reading_is_quick_and_what_is_passed_on_stays_small() -> None:
    started = time.process_time()
    parsed = parsing.parse(DEMO)
    ranked = ranking.rank(parsed, QUESTION)
    reporting.report(ranked)
    assert time.process_time() - started < 2
    assert len(json.dumps(parsed)) < 500_000
    assert len(json.dumps(ranked)) < 20_000


# ---- the crew
def crew() -> CrewDefinition:
    path = EXAMPLE / "crew.yaml"
    parsed = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    assert len(parsed.crews) == 1
    return from_crew(parsed.crews[0])


def test_the_crew_loads_and_uses_the_input_it_is_given() -> None:
    definition = crew()
    assert AgentLoader([EXAMPLE]).check(definition) == []
    assert prompts.check(definition) == []
    assert submission.check(definition, QUESTION, inputs={"log": "x"}) == []


def test_only_the_report_can_be_left_to_a_model_and_the_model_is_never_sent_the_log(demo: dict[str, Any]) -> None:
    agents = {agent.agent_id: agent for agent in crew().agents}
    assert [name for name, agent in agents.items() if agent.system_prompt] == ["report"]
    template = agents["report"].prompt
    assert template is not None
    assert prompts.references(template) == ([], ["rank"])
    sent = prompts.compose(template, QUESTION, {"log": DEMO}, {"rank": demo})
    assert sent.startswith(QUESTION)
    assert len(sent) < 25_000


async def test_the_agents_work_in_a_thread_as_a_worker_runs_them() -> None:
    definition, loader = crew(), AgentLoader([EXAMPLE])
    outputs: dict[str, Any] = {}
    said: list[str] = []
    for agent in definition.agents:
        prompt = prompts.compose(agent.prompt, QUESTION, {"log": DEMO}, outputs)
        context = testing.context(prompt, inputs={"log": DEMO}, outputs=outputs, agent=agent)
        output = await asyncio.to_thread(loader.load(definition, agent).run, context)
        outputs[agent.agent_id] = json.loads(json.dumps(output))
        said += context.messages
    assert outputs["report"] == answer(DEMO, QUESTION)
    assert said[0].startswith(
        f"{sum(1 for line in DEMO.splitlines() if line.strip()):,} lines: {len(ENTRIES):,} records"
    )
    assert said[1].startswith("1 incident")


async def test_a_missing_log_is_named() -> None:
    context = testing.context(inputs={"text": "x"})
    with pytest.raises(ValueError, match=r"no input 'log'.*--input log=@FILE"):
        await asyncio.to_thread(parsing.Parse().run, context)
