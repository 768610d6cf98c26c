"""Other logs than the example's own."""

from __future__ import annotations

import importlib
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from triage import QUESTION, answer, findings, parsing, ranking, reporting

pytestmark = pytest.mark.pure

lines = importlib.import_module("log_triage_lines")


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
