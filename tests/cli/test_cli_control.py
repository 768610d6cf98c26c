"""`cancel interrupt resume drain`, and how what they do is shown. Several processes around one store."""

from __future__ import annotations

import json
import re
import signal
import subprocess

import pytest
import redis
import yaml
from shell import Shell, until

from watchbill.names import CrewKeys


def test_a_waiting_task_is_cancelled_and_its_result_says_so_with_exit_1(shell: Shell, stored: str) -> None:
    shell.run("submit", stored, "x", "--agent", "first", "--id", "t1")
    assert shell.run("status", stored).stdout.splitlines()[-1].split() == ["t1", "waiting"]

    done = shell.run("cancel", stored, "t1", "--reason", "no longer needed")
    assert (done.returncode, done.stdout, done.stderr) == (0, "cancelled\n", "")

    ended = shell.run("result", stored, "t1")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "error: cancelled: no longer needed\n"
    again = shell.run("cancel", stored, "t1", "-o", "json")
    assert json.loads(again.stdout) == {"crew": f"default/{stored}", "task_id": "t1", "status": "cancelled"}
    assert "task_cancelled first t1 cancelled: no longer needed" in shell.run("events", stored).stdout


def test_a_waiting_run_is_cancelled_as_a_whole(shell: Shell, stored: str) -> None:
    shell.run("submit", stored, "x", "--id", "r1")
    assert shell.run("cancel", stored, "r1").stdout == "cancelled\n"
    steps = shell.run("status", stored, "r1").stdout.splitlines()
    assert steps[1].split()[:2] == ["r1", "cancelled"]
    assert [line.split()[:2] for line in steps[4:]] == [
        ["first", "cancelled"],
        ["second", "skipped"],
        ["third", "skipped"],
    ]
    ended = shell.run("result", stored, "r1")
    assert ended.returncode == 1
    assert "error: first: cancelled" in ended.stderr
    assert "never started, because of that: second, third" in ended.stderr
    assert "skipped: the run was cancelled" in shell.run("result", stored, "r1/second").stderr


def test_all_that_is_unfinished_is_cancelled_or_all_tasks_of_an_agent(shell: Shell, stored: str) -> None:
    for task in ("t1", "t2", "t3"):
        shell.run("submit", stored, "x", "--agent", "first", "--id", task)
    shell.run("submit", stored, "x", "--agent", "second", "--id", "other")
    shell.run("submit", stored, "x", "--id", "r1")

    done = shell.run("cancel", stored, "--all", "--agent", "first", "--reason", "a mistake")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 cancelled\n", "")
    assert shell.run("result", stored, "t2").stderr == "error: cancelled: a mistake\n"
    assert shell.run("status", stored, "other").stdout.split()[-1] == "waiting"

    wrong = shell.run("cancel", stored, "--all", "--agent", "frist")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "has no agent 'frist', nor tasks of one; it has: first, second, third" in wrong.stderr

    done = shell.run("cancel", stored, "--all", "-o", "json")
    assert json.loads(done.stdout) == {"crew": f"default/{stored}", "cancelled": 2, "cancelling": 0}
    again = shell.run("cancel", stored, "--all", "-o", "yaml")
    assert yaml.safe_load(again.stdout) == {"crew": f"default/{stored}", "cancelled": 0, "cancelling": 0}
    assert shell.run("cancel", "no-crew", "--all").returncode == 2


def test_of_all_that_is_cancelled_what_runs_is_stopped_by_its_worker(
    shell: Shell, stored: str, worker: subprocess.Popen[str]
) -> None:
    shell.hold("first")
    shell.run("submit", stored, "x", "--agent", "first", "--id", "t1")
    until(lambda: "first started" in shell.notes())
    done = shell.run("cancel", stored, "--all")
    assert (done.returncode, done.stdout) == (0, "0 cancelled\n1 cancelling\n")
    assert "all of them have ended" in done.stderr
    assert "error: cancelled" in shell.run("result", stored, "t1", "--wait").stderr


def test_on_a_terminal_it_is_asked_before_all_is_cancelled(shell: Shell, stored: str) -> None:
    assert shell.on_terminal("cancel", stored, "--all", typed=b"") == (0, ""), "there is nothing to ask about"
    shell.run("submit", stored, "x", "--agent", "first", "--id", "t1")
    shell.run("submit", stored, "x", "--agent", "first", "--id", "t2", "--in", "1h")
    for typed, code in ((b"\n", 1), (b"no\n", 1), (b"\x04", 1), (b"\x03", 130)):
        done, said = shell.on_terminal("cancel", stored, "--all", typed=typed)
        assert done == code, said
        assert f"Cancel all runs and tasks of crew '{stored}' (1 waiting, 1 delayed in all)? [y/N]" in said
        assert shell.run("status", stored, "t1").stdout.split()[-1] == "waiting"
    done, said = shell.on_terminal("cancel", stored, "--all", "--agent", "first", typed=b"y\n")
    assert done == 0
    assert "all tasks of agent 'first'" in said
    assert shell.run("status", stored, "t1").stdout.split()[-1] == "cancelled"
    shell.run("submit", stored, "x", "--agent", "first", "--id", "t3")
    assert shell.on_terminal("cancel", stored, "--all", "--yes", typed=b"") == (0, "")
    assert shell.run("status", stored, "t3").stdout.split()[-1] == "cancelled"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("cancel c", "neither an ID nor --all is given"),
        ("cancel c t1 --all", "--all and ID contradict each other"),
        ("cancel c --agent a", "Add --all"),
        ("cancel c t1 --agent a", "Add --all"),
    ],
)
def test_what_is_to_be_cancelled_must_be_said_once(shell: Shell, arguments: str, message: str) -> None:
    done = shell.run(*arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_running_run_is_stopped_by_its_worker_and_who_waits_is_told(
    shell: Shell, stored: str, worker: subprocess.Popen[str]
) -> None:
    shell.hold("second")
    waiting = shell.start("submit", stored, "x", "--id", "r1", "--wait")
    until(lambda: "second started" in shell.notes())
    until(lambda: "second running" in shell.read(waiting), explain=lambda: shell.read(waiting))

    done = shell.run("cancel", stored, "r1", "--reason", "enough")
    assert (done.returncode, done.stdout) == (0, "cancelled\n")

    assert waiting.wait(180) == 1
    told = shell.read(waiting)
    assert "second cancelled" in told
    assert f"default/{stored} r1 cancelled" in told
    assert "error: second: cancelled: enough" in told
    assert "never started, because of that: third" in told
    assert shell.notes() == ["first started", "first ended", "second started"]
    assert yaml.safe_load(shell.run("result", stored, "r1", "-o", "yaml").stdout)["status"] == "cancelled"

    shell.let_go("second")
    assert shell.run("submit", stored, "y", "--wait").returncode == 0, "the worker works on"


def test_a_running_task_is_stopped_and_who_waits_is_told(
    shell: Shell, stored: str, worker: subprocess.Popen[str]
) -> None:
    shell.hold("first")
    waiting = shell.start("submit", stored, "x", "--agent", "first", "--id", "t1", "--wait")
    until(lambda: "first running" in shell.read(waiting), explain=lambda: shell.read(waiting))
    assert shell.run("cancel", stored, "t1").returncode == 0
    assert waiting.wait(180) == 1
    assert "first cancelled" in shell.read(waiting)
    assert "error: cancelled" in shell.read(waiting)


def test_a_run_of_this_process_that_is_cancelled_from_elsewhere_ends_with_exit_1(shell: Shell) -> None:
    shell.hold("second")
    running = shell.start("run", "crew.yaml", "x", "--id", "r1")
    until(lambda: "second started" in shell.notes(), explain=lambda: shell.read(running))
    done = shell.run("cancel", "notes", "r1")
    assert done.returncode == 0, done.stderr
    assert running.wait(180) == 1
    assert "second: cancelled" in shell.read(running)
    resumed = shell.run("run", "crew.yaml", "--resume")
    assert resumed.returncode == 2, "what was cancelled is not to be resumed"


def test_a_run_that_is_being_cancelled_is_not_resumed_and_that_is_said(shell: Shell, stored: str) -> None:
    text = (shell.folder / "crew.yaml").read_text()
    (shell.folder / "crew.yaml").write_text(text.replace("spec:\n", "spec:\n  tasks: {leaseSeconds: 600}\n"))
    assert shell.run("apply", "-f", "crew.yaml").returncode == 0
    shell.hold("first")
    worker = shell.start("worker", stored, "--health-port", "0")
    shell.run("submit", stored, "x", "--id", "r1")
    until(lambda: "first started" in shell.notes(), explain=lambda: shell.read(worker))
    worker.send_signal(signal.SIGSTOP)
    cancelling = shell.start("cancel", stored, "r1")
    until(lambda: " cancelling " in shell.run("status", stored, "r1").stdout, explain=lambda: shell.read(cancelling))
    told = shell.run("run", "crew.yaml", "--resume")
    assert told.returncode == 2
    assert "(run r1 is being cancelled)" in told.stderr
    worker.send_signal(signal.SIGCONT)
    assert cancelling.wait(180) == 0


def test_a_running_task_is_set_aside_and_goes_on_when_it_is_resumed(
    shell: Shell, stored: str, worker: subprocess.Popen[str]
) -> None:
    shell.hold("first")
    waiting = shell.start("submit", stored, "x", "--agent", "first", "--id", "t1", "--wait")
    until(lambda: "first running" in shell.read(waiting), explain=lambda: shell.read(waiting))

    done = shell.run("interrupt", stored, "t1", "--reason", "wait for the figures")
    assert done.returncode == 0
    assert f"watchbill resume {stored} t1" in done.stderr
    until(lambda: "first interrupted" in shell.read(waiting), explain=lambda: shell.read(waiting))
    assert "t1: interrupted" in shell.run("result", stored, "t1").stderr
    assert shell.run("interrupt", stored, "t1").stdout == "interrupted\n"
    assert waiting.poll() is None

    shell.let_go("first")
    assert shell.run("resume", stored, "t1").stdout in ("waiting\n", "running\n", "completed\n")
    assert waiting.wait(180) == 0, shell.read(waiting)
    assert shell.read(waiting, "out") == "first did x\n"
    assert shell.notes() == ["first started", "first started", "first ended"]


def test_what_can_not_be_done_is_told(shell: Shell, stored: str) -> None:
    shell.run("submit", stored, "x", "--id", "r1")
    for command in ("cancel", "interrupt", "resume"):
        missing = shell.run(command, stored, "nobody")
        assert (missing.returncode, missing.stdout) == (2, "")
        assert "no run or task 'nobody'" in missing.stderr
        assert shell.run(command, "no-crew", "r1").returncode == 2
    assert "interrupt one of its steps" in shell.run("interrupt", stored, "r1").stderr
    assert shell.run("interrupt", stored, "r1/first").stdout == "interrupted\n"
    steps = shell.run("status", stored, "r1").stdout.splitlines()
    assert steps[4].split()[:2] == ["first", "interrupted"]
    assert shell.run("resume", stored, "r1/first").stdout == "waiting\n"
    again = shell.run("resume", stored, "r1/first")
    assert (again.returncode, again.stdout) == (0, "waiting\n")
    assert "nothing was changed" in again.stderr
    over = shell.run("cancel", stored, "before")
    assert over.returncode == 2
    assert "it is completed" in over.stderr


def test_a_worker_that_drains_claims_no_more_until_it_may_again(
    shell: Shell, stored: str, worker: subprocess.Popen[str]
) -> None:
    wrong = shell.run("drain", stored, "nobody-1")
    assert wrong.returncode == 2
    name = wrong.stderr.rstrip().rpartition(" ")[2]
    assert name.endswith(f"-{worker.pid}")
    (known,) = json.loads(shell.run("workers", stored, "-o", "json").stdout)
    assert known["name"].rpartition(".")[0] == name

    done = shell.run("drain", stored, known["name"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "draining\n", "")
    assert shell.run("workers", stored).stdout.split()[-1] == "draining"
    assert "is draining already" in shell.run("drain", stored, name).stderr
    shell.run("submit", stored, "x", "--id", "r1")
    late = shell.run("result", stored, "r1", "--wait", "--timeout", "1")
    assert late.returncode == 1
    assert shell.notes() == []

    off = json.loads(shell.run("drain", stored, name, "--off", "-o", "json").stdout)
    assert off == {"crew": f"default/{stored}", "worker": name, "draining": False}
    assert shell.run("result", stored, "r1", "--wait").returncode == 0


def test_workers_are_listed_with_what_they_say_of_themselves(shell: Shell, stored: str, redis_url: str) -> None:
    nobody = shell.run("workers", stored)
    assert (nobody.returncode, nobody.stdout) == (0, "")
    assert f"watchbill worker {stored}" in nobody.stderr
    assert shell.run("workers", stored, "-o", "json").stdout == "[]\n"
    assert shell.run("workers", "no-crew").returncode == 2

    keys = CrewKeys("default", stored)
    with redis.Redis.from_url(redis_url) as client:
        seconds, microseconds = client.time()
        until_ms = seconds * 1000 + microseconds // 1000 + 10 * 3_600_000
        client.zadd(keys.leases, {"host-1.abc": until_ms, "host-2.def": until_ms, "host-3.ghi": 1})
        client.hset(keys.workers, "host-1.abc", json.dumps({"running": 2, "slots": 10, "abandoned": 3}))
        client.hset(keys.workers, "host-2.def", json.dumps({"running": 4, "slots": 10, "draining": True}))
    title, *rows = [line.split() for line in shell.run("workers", stored).stdout.splitlines()]
    assert title == ["WORKER", "RUNNING", "SLOTS", "ABANDONED", "LEASE", "STATE"]
    assert [[*row[:4], row[5]] for row in rows] == [
        ["host-2.def", "4", "10", "0", "draining"],
        ["host-1.abc", "2", "10", "3", "works"],
        ["host-3.ghi", "0", "-", "0", "silent"],
    ]
    assert re.fullmatch("10h00m|9h5.m", rows[0][4]), "ten hours, less what the command took"
    told = yaml.safe_load(shell.run("workers", stored, "-o", "yaml").stdout)
    assert [one["name"] for one in told] == ["host-2.def", "host-1.abc", "host-3.ghi"]
    fields = {"running": 2, "slots": 10, "draining": False, "abandoned": 3}
    assert told[1].items() >= fields.items()
    assert 9 * 3_600_000 < told[1]["lease_ms"] <= 10 * 3_600_000


@pytest.mark.parametrize(
    "command", ["cancel c --all", "workers c", "cancel c t", "interrupt c t", "resume c t", "drain c w"]
)
def test_without_a_store_it_is_exit_3(shell: Shell, command: str) -> None:
    done = shell.run(*command.split())
    assert (done.returncode, done.stdout) == (3, "")
    assert "WATCHBILL_REDIS_URL" in done.stderr


def test_what_runs_is_cancelled_though_its_worker_was_killed_and_there_is_no_other(
    shell: Shell, stored: str, worker: subprocess.Popen[str]
) -> None:
    shell.hold("first")
    for task in ("t1", "t2"):
        shell.run("submit", stored, "x", "--agent", "first", "--id", task)
    shell.run("submit", stored, "x", "--id", "r1")
    until(lambda: shell.notes().count("first started") == 3)
    worker.kill()
    worker.wait()
    assert shell.run("cancel", stored, "t1").stdout == "cancelled\n"
    done = shell.run("cancel", stored, "--all")
    assert (done.returncode, done.stdout) == (0, "2 cancelled\n")
    assert "cancelling" not in shell.run("status", stored).stdout


def test_a_suspended_crew_begins_nothing_until_it_is_resumed_and_why_says_so(shell: Shell, alone: str) -> None:
    assert shell.run("suspend", alone).stdout == "suspended\n"
    again = shell.run("suspend", alone)
    assert (again.returncode, again.stderr) == (0, f"nothing was changed: {alone} is suspended already\n")
    shell.run("submit", alone, "x", "--agent", "first", "--id", "t1")
    told = shell.run("why", alone, "t1").stdout.splitlines()
    assert told[1:] == [
        "why     its crew is suspended; nothing is before it",
        "starts  unknown: when somebody resumes the crew",
        f"look    watchbill resume default/{alone}",
    ]
    assert "the crew is suspended: no task begins" in shell.run("status", alone).stderr
    assert "suspend: true" in shell.run("get", "crew", alone, "-o", "yaml").stdout

    assert json.loads(shell.run("resume", alone, "-o", "json").stdout) == {
        "crew": f"default/{alone}",
        "suspended": False,
    }
    assert "no worker lives" in shell.run("why", alone, "t1").stdout
    assert shell.run("resume", alone).stderr == f"nothing was changed: {alone} was not suspended\n"


def test_a_suspended_crew_is_not_run_from_its_file(shell: Shell) -> None:
    text = (shell.folder / "crew.yaml").read_text()
    (shell.folder / "crew.yaml").write_text(text.rstrip() + "\n  suspend: true\n")
    refused = shell.run("run", "crew.yaml", "x")
    assert refused.returncode == 2
    assert "spec.suspend" in refused.stderr
    assert "nothing would begin" in refused.stderr
