"""The log-triage example tells the truth: its answer against counts made here, from the log itself."""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from watchbill import testing
from watchbill.agents import AgentLoader
from watchbill.api.parse import parse as parse_yaml
from watchbill.plan import prompts, submission
from watchbill.records import CrewDefinition, from_crew

pytestmark = pytest.mark.pure

EXAMPLE = Path(__file__).parents[2] / "examples" / "log-triage"
QUESTION = "What broke, and what should we look at first?"

# As `watchbill run` does: the folder of the YAML is importable. Its modules have names of their own.
if str(EXAMPLE) not in sys.path:
    sys.path.insert(0, str(EXAMPLE))
lines = importlib.import_module("log_triage_lines")
parsing = importlib.import_module("log_triage_parse")
ranking = importlib.import_module("log_triage_rank")
reporting = importlib.import_module("log_triage_report")


def findings(log: str, question: str = "") -> dict[str, Any]:
    """What `rank` returns, after a trip through JSON as between two steps."""
    parsed = json.loads(json.dumps(parsing.parse(log)))
    ranked: dict[str, Any] = json.loads(json.dumps(ranking.rank(parsed, question)))
    return ranked


def answer(log: str, question: str = "") -> str:
    return str(reporting.report(findings(log, question)))


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


# ---- other logs


def at(seconds: float) -> datetime:
    return datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC) + timedelta(seconds=seconds)


def plain(seconds: float, level: str, component: str, message: str) -> str:
    moment = at(seconds)
    return f"{moment:%Y-%m-%d %H:%M:%S},{moment.microsecond // 1000:03} {level} [{component}] {message}"


def calm(start: int, end: int) -> list[str]:
    return [plain(s, "INFO", "api", f"handled request {s} in {s % 7} ms") for s in range(start, end)]


def test_an_empty_log_is_called_empty() -> None:
    for log in ("", "\n \n\n"):
        said = answer(log, QUESTION)
        assert "**The log is empty.**" in said
        assert "##" not in said.partition("## How much")[0]


def test_a_log_that_it_cannot_read_is_called_that_and_shown() -> None:
    said = answer("once upon a time\nthere was a `log` | that nobody could read\n" * 3)
    assert "**I can't read this log.** None of its 6 lines" in said
    assert "`once upon a time`" in said
    assert "6 lines (100.0 %) not understood" in said


def test_a_single_error_is_shown_and_no_incident_is_made_of_it() -> None:
    said = answer(plain(0, "ERROR", "db", "could not connect: connection refused"))
    assert "no burst" in said
    assert "1 record: 1 error, 0 warnings." in said
    assert "`could not connect: connection refused` (1×)" in said
    assert "incident:" not in said.lower()


def test_a_log_without_errors_says_that_nothing_broke() -> None:
    said = answer("\n".join(calm(0, 300)))
    assert "**Nothing in this log says that anything broke.** 300 records: 0 errors, 0 warnings." in said
    assert "## Look at first" not in said


def test_a_few_warnings_are_shown_where_nothing_broke() -> None:
    log = calm(0, 300) + [plain(s, "WARNING", "disk", f"{s} MB left") for s in (20, 120, 250)]
    said = answer("\n".join(sorted(log)))
    assert "**Nothing in this log says that anything broke.** 303 records: 0 errors, 3 warnings." in said
    assert "| 3 | WARNING | disk | 12:00:20–12:04:10 |" in said


def test_errors_at_an_even_rate_make_no_incident() -> None:
    log = sorted(calm(0, 600) + [plain(s, "ERROR", "mail", f"bounce of message {s}") for s in range(0, 600, 4)])
    said = answer("\n".join(log))
    assert "**There are failures, but no burst of them.** 750 records: 150 errors" in said
    assert "| 150 | ERROR | mail | 12:00:00–12:09:56 |" in said


@pytest.mark.parametrize("per_second", [0.05, 0.3, 2.0])
def test_errors_that_come_by_chance_make_no_incident(per_second: float) -> None:
    for seed in range(15):
        chance = random.Random(seed)
        log, moment = calm(0, 900), 0.0
        while (moment := moment + chance.expovariate(per_second)) < 900:
            log.append(plain(moment, "ERROR", "mail", "bounced"))
        assert findings("\n".join(sorted(log)))["incidents"] == [], seed


def test_bursts_that_come_back_all_the_time_are_the_usual_state_of_the_log() -> None:
    log = calm(0, 600) + [plain(s + i / 10, "ERROR", "db", "timed out") for s in range(0, 600, 10) for i in range(20)]
    assert "**There are failures, but no burst of them.**" in answer("\n".join(sorted(log)))


def test_an_error_that_goes_on_during_the_incident_is_noise_too() -> None:
    log = calm(0, 600) + [plain(s, "ERROR", "mail", f"bounce of {s}") for s in range(0, 600, 3)]
    log += [plain(300 + i / 10, "ERROR", "db", f"query {i}: deadlock detected") for i in range(300)]
    log.append(plain(310, "WARNING", "pay", "card declined"))
    found = findings("\n".join(sorted(log)))
    assert [group["component"] for group in found["groups"]] == ["db"]
    assert {(g["component"], g["count"], g["in_incidents"]) for g in found["noise"]} == {
        ("mail", 200, 10),
        ("pay", 1, 1),
    }
    assert [kind["kind"] for kind in found["incidents"][0]["kinds"]] == ["lock or deadlock"]


def test_of_two_failures_that_begin_together_the_deeper_one_is_called_the_cause() -> None:
    log = calm(0, 600)
    for i in range(60):
        log.append(plain(300 + i / 4, "ERROR", "web", f"request {i} timed out"))
        log.append(plain(300.2 + i / 4, "ERROR", "db", f"insert {i}: no space left on device"))
    assert "**Most likely cause: disk full.**" in answer("\n".join(sorted(log)))


def test_two_incidents_are_told_apart() -> None:
    log = calm(0, 900)
    log += [plain(200 + i / 4, "ERROR", "db", f"query {i} failed: deadlock detected") for i in range(80)]
    log += [plain(600 + i / 8, "ERROR", "mq", f"publish {i}: connection refused") for i in range(240)]
    found = findings("\n".join(sorted(log)))
    assert [(i["onset"][11:], i["end"][11:], i["errors"]) for i in found["incidents"]] == [
        ("12:03:20", "12:03:39", 80),
        ("12:10:00", "12:10:29", 240),
    ]
    assert [i["kinds"][0]["kind"] for i in found["incidents"]] == ["lock or deadlock", "connection refused or lost"]
    said = reporting.report(found)
    assert "**2 incidents** (from 12:03:20, 12:10:00). The worst began at 12:10:00:" in said
    assert "## Incident 1: 12:03:20 to 12:03:39 (19 s)" in said
    assert "## Incident 2: 12:10:00 to 12:10:29 (29 s)" in said


def test_an_incident_that_the_log_does_not_see_the_end_of_is_called_ongoing() -> None:
    log = calm(0, 300) + [plain(280 + i / 5, "ERROR", "db", f"timeout after {i} ms") for i in range(100)]
    said = answer("\n".join(sorted(log)))
    assert "12:04:40 not over when the log ends" in said
    assert "**the log ends here**" in said
    assert "recovery" not in said


def test_what_belongs_to_the_start_of_the_log_is_not_taken_for_a_change_before_the_incident() -> None:
    log = [plain(0, "INFO", "api", "listening"), *calm(1, 300), plain(22, "INFO", "job", "reindexing")]
    log += [plain(30 + i / 4, "ERROR", "db", f"query {i}: deadlock detected") for i in range(80)]
    (incident,) = findings("\n".join(sorted(log)))["incidents"]
    assert [new["said"] for new in incident["new_before"]] == ["reindexing"]


def test_what_normally_happens_and_stopped_is_noticed() -> None:
    log = [plain(s, "INFO", "shop", f"order {s} placed") for s in range(600) if not 400 <= s < 460]
    log += [plain(400 + i / 2, "ERROR", "pay", f"charge {i} failed: connection reset by peer") for i in range(120)]
    assert "`shop` `order <n> placed` fell from 60 to 0 a minute." in answer("\n".join(sorted(log)))


def test_an_access_log_alone_shows_who_was_turned_away() -> None:
    def line(s: float, status: int) -> str:
        request = f"GET /cart/{int(s)}?a=1 HTTP/1.1"
        return f'10.0.0.{int(s) % 9} - - [{at(s):%d/%b/%Y:%H:%M:%S} +0000] "{request}" {status} 12 "-" "x"'

    log = [line(s, 502 if 300 <= s < 330 else 200) for s in range(900)]
    said = answer("\n".join(log))
    assert "First sign: requests answered 5xx" in said
    assert "before 0 of 300 (0.0 %); during 30 of 30 (100.0 %); after 0 of 570 (0.0 %)" in said
    assert "| 30 | INFO (502) | access | 12:05:00–12:05:29 | `GET /cart/300` |" in said


def test_a_burst_of_warnings_is_an_incident_where_there_are_no_errors() -> None:
    log = calm(0, 600) + [plain(300 + i / 3, "WARNING", "disk", f"write took too long: {i} ms") for i in range(60)]
    (incident,) = findings("\n".join(sorted(log)))["incidents"]
    assert (incident["onset"][11:], incident["end"][11:], incident["warnings"]) == ("12:05:00", "12:05:19", 60)
    assert incident["peak_of"] == "warning"


def test_one_incident_reads_the_same_in_json_logfmt_and_text() -> None:
    def said(form: str) -> list[Any]:
        def line(s: float, level: str, message: str) -> str:
            moment = at(s).isoformat(timespec="milliseconds")
            if form == "json":
                return json.dumps({"ts": moment, "level": level, "logger": "db", "msg": message})
            if form == "logfmt":
                return f'ts={moment} level={level} logger=db msg="{message}"'
            return f"{moment} {level.upper()} [db] {message}"

        log = [line(s, "info", f"query {s} done") for s in range(300)]
        log += [line(150 + i / 4, "error", f"query {i} failed: no space left on device") for i in range(60)]
        found = findings("\n".join(log))
        assert found["log"]["formats"] == {form: 360}
        (incident,) = found["incidents"]
        (group,) = found["groups"]
        return [
            incident["onset"],
            incident["end"],
            incident["errors"],
            incident["kinds"],
            group["count"],
            group["template"],
        ]

    assert said("json") == said("logfmt") == said("text")
    assert said("json")[:3] == ["2026-03-01 12:02:30", "2026-03-01 12:02:44", 60]
    assert said("json")[5] == "query <n> failed: no space left on device"


def test_syslog_has_no_levels_and_the_report_says_that_they_are_guessed() -> None:
    log = [f"{at(s):%b %d %H:%M:%S} web-1 cron[{s}]: job {s} ran" for s in range(300)]
    log += [f"{at(200 + i):%b %d %H:%M:%S} web-1 kernel: Out of memory: Killed process {i} (java)" for i in range(30)]
    found = findings("\n".join(log))
    assert found["groups"][0]["component"] == "kernel"
    assert found["incidents"][0]["onset"][11:] == "12:03:20"
    said = reporting.report(found)
    assert "Most likely cause: out of memory" in said
    assert "330 records had no level; it was guessed from the words." in said
    assert str(lines.UNKNOWN_YEAR) not in said


def test_levels_without_times_are_counted_and_put_into_no_timeline() -> None:
    said = answer("INFO:root:started\n" + "ERROR:db:connection refused\n" * 9)
    assert "**There are failures, but no times**" in said
    assert "10 records: 9 errors, 0 warnings" in said
    assert "| 9 | ERROR | db | no time | `connection refused` |" in said


@pytest.mark.parametrize(
    ("line", "level", "component", "message"),
    [
        ("2026-03-01T12:00:00Z ERROR shop.web - it broke", "ERROR", "shop.web", "it broke"),
        ("[2026-03-01 12:00:00 +0000] [123] [ERROR] Worker died", "ERROR", "", "Worker died"),
        ("2026-03-01 12:00:00.123 [main] WARN com.acme.Foo - slow", "WARNING", "com.acme.Foo", "slow"),
        ("2026/03/01 12:00:00 [crit] 31#31: *5 no route", "CRITICAL", "", "31#31: *5 no route"),
        ("Mar  1 12:00:00 web-1 sshd[311]: session opened", "", "sshd", "session opened"),
        ("E0301 12:00:00.000001       1 reflector.go:138] no such host", "ERROR", "reflector.go", "no such host"),
        ("2156:M 01 Mar 2026 12:00:00.430 # Memory low", "WARNING", "redis", "Memory low"),
        ("web-1  | 2026-03-01 12:00:00 ERROR gone", "ERROR", "web-1", "gone"),
        (
            'level=warn ts=2026-03-01T12:00:00Z caller=main.go:1 msg="it \\"hung\\""',
            "WARNING",
            "main.go:1",
            'it "hung"',
        ),
        ('{"time":1772366400000,"level":50,"name":"api","msg":"boom"}', "ERROR", "api", "boom"),
        (
            '{"@timestamp":"2026-03-01T12:00:00Z","log.level":"fatal","service":"pay","message":"x"}',
            "CRITICAL",
            "pay",
            "x",
        ),
    ],
)
def test_a_line_of_a_known_format_is_read(line: str, level: str, component: str, message: str) -> None:
    record = lines.read_line(line)
    assert (record.level, record.component, record.message) == (level, component, message)
    assert record.at % 31_536_000 % 86_400 == pytest.approx(43_200, abs=0.5)  # noon, of whichever year


@pytest.mark.parametrize(
    "line",
    [
        "plain words",
        "2026-99-99 12:00:00 ERROR x",
        "key=value other",
        '{"a": 1}',
        "{not json",
        "[1, 2]",
        "12345",
        "=" * 50,
    ],
)
def test_a_line_of_no_known_format_is_not_guessed_at(line: str) -> None:
    assert lines.read_line(line) is None


@pytest.mark.parametrize("value", ["1e400", "NaN", "-1", "true", "[]", '"²"', "1" * 400])
def test_nonsense_in_a_structured_line_is_survived(value: str) -> None:
    log = f'{{"ts": {value}, "level": {value}, "status": {value}, "path": "/", "err": {value}, "msg": "x"}}'
    assert findings(log)["log"]["records"] == 1


PYTHON_TRACE = """Traceback (most recent call last):
  File "/srv/a.py", line 1, in f
    g()
KeyError: 'x'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/srv/a.py", line 9, in h
    f()
shop.errors.Missing: no 'x'"""
JAVA_TRACE = """java.lang.IllegalStateException: outer
\tat com.acme.A.f(A.java:1)
Caused by: java.net.ConnectException: Connection refused
\tat com.acme.B.g(B.java:2)
\t... 12 more"""


@pytest.mark.parametrize(
    ("trace", "kind"), [(PYTHON_TRACE, "Missing"), ("\t" + JAVA_TRACE, "connection refused or lost")]
)
def test_a_traceback_belongs_to_its_record_and_names_the_kind_of_failure(trace: str, kind: str) -> None:
    log = "\n".join([plain(0, "ERROR", "a", "it failed"), trace, plain(1, "INFO", "a", "next")])
    found = findings(log)
    assert (found["log"]["records"], found["log"]["unparsed"]) == (2, 0)
    assert [(g["template"], g["kind"]) for g in found["groups"]] == [("it failed", kind)]


def test_a_traceback_of_a_process_without_a_logger_is_an_error_of_its_own() -> None:
    found = findings("\n".join([plain(7, "INFO", "a", "started"), "not a record", PYTHON_TRACE]))
    # the words before it belong to no record, so neither does the trace after them
    assert found["log"]["unparsed"] == 1
    alone = findings(PYTHON_TRACE)
    assert (alone["log"]["records"], alone["log"]["unparsed"]) == (1, 0)
    assert alone["groups"][0]["sample"] == "shop.errors.Missing: no 'x'"


def test_colours_carriage_returns_and_broken_bytes_do_not_hide_a_record() -> None:
    broken = plain(0, "ERROR", "a", b"caf\xe9 closed".decode("utf-8", "surrogateescape"))
    log = f"\ufeff\x1b[31m{broken}\x1b[0m\r\n\r\n{plain(1, 'INFO', 'a', 'open')}\r\n"
    found = findings(log)
    assert found["log"]["levels"] == {"ERROR": 1, "INFO": 1}
    answer(log).encode("utf-8")


def test_what_differs_between_two_records_is_masked_and_what_tells_them_apart_is_not() -> None:
    one = "user u42 paid 12.50 from 10.0.0.1:80 in 31ms with 'card' id 7f3a9c21de for 0xFF"
    two = "user u77 paid 1 from 10.9.9.9:8080 in 4.2ms with 'cash' id 0011aaff22 for 0x1A"
    assert parsing.template(one) == parsing.template(two)
    assert parsing.template("read failed for sku=1") != parsing.template("write failed for sku=1")
    assert parsing.template("the disk can't be read and won't be") == "the disk can't be read and won't be"


def test_text_of_the_log_breaks_neither_table_nor_code() -> None:
    said = answer(plain(0, "ERROR", "a", "`x` | y | z ``` # h"))
    (row,) = [line for line in said.splitlines() if line.startswith("| 1 |")]
    assert row.count("|") == 6
    assert row.count("`") == 2


def test_a_log_of_ever_new_messages_gives_an_output_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "MAX_SHAPES", 50)
    monkeypatch.setattr(parsing, "MAX_ROWS", 100)
    names = ["".join(chr(97 + n // 26**k % 26) for k in range(3)) for n in range(2_000)]
    log = "\n".join(plain(n, "ERROR" if n % 2 else "INFO", name, f"about {name}") for n, name in enumerate(names))
    parsed = parsing.parse(log)
    assert len(parsed["shapes"]) <= 52
    assert len(parsed["rows"]) <= 100
    assert sum(row[2] for row in parsed["rows"]) == 2_000
    assert ranking.rank(parsed)["log"]["levels"] == {"ERROR": 1_000, "INFO": 1_000}
