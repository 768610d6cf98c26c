"""`cancel interrupt resume drain`, and how what they do is shown. Several processes around one store."""

from __future__ import annotations

import json

import pytest
import yaml


def test_a_waiting_task_is_cancelled_and_its_result_says_so_with_exit_1(shell, stored) -> None:
    shell.run("submit", stored, "x", "--agent", "first", "--id", "t1")
    assert shell.run("status", stored).stdout.splitlines()[-1].split() == ["t1", "waiting"]

    done = shell.run("cancel", stored, "t1", "--reason", "no longer needed")
    assert (done.returncode, done.stdout, done.stderr) == (0, "cancelled\n", "")

    ended = shell.run("result", stored, "t1")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "error: cancelled: no longer needed\n"
    again = shell.run("cancel", stored, "t1", "-o", "json")
    assert json.loads(again.stdout) == {"crew": f"default/{stored}", "id": "t1", "state": "cancelled"}
    assert "task_cancelled first t1 cancelled: no longer needed" in shell.run("events", stored).stdout


def test_a_waiting_run_is_cancelled_as_a_whole(shell, stored) -> None:
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


def test_a_running_run_is_stopped_by_its_worker_and_who_waits_is_told(shell, stored, worker, until) -> None:
    shell.hold("second")
    waiting = shell.start("submit", stored, "x", "--id", "r1", "--wait")
    until(lambda: "second started" in shell.notes())
    until(lambda: "second running" in shell.read(waiting), explain=lambda: shell.read(waiting))

    done = shell.run("cancel", stored, "r1", "--reason", "enough")
    assert (done.returncode, done.stdout) in ((0, "cancelling\n"), (0, "cancelled\n"))
    assert ("a worker was asked to stop it" in done.stderr) == (done.stdout == "cancelling\n")

    assert waiting.wait(30) == 1
    told = shell.read(waiting)
    assert "second cancelled" in told
    assert f"default/{stored} r1 cancelled" in told
    assert "error: second: cancelled: enough" in told
    assert "never started, because of that: third" in told
    assert shell.notes() == ["first started", "first ended", "second started"]
    assert yaml.safe_load(shell.run("result", stored, "r1", "-o", "yaml").stdout)["status"] == "cancelled"

    shell.let_go("second")
    assert shell.run("submit", stored, "y", "--wait").returncode == 0, "the worker works on"


def test_a_running_task_is_stopped_and_who_waits_is_told(shell, stored, worker, until) -> None:
    shell.hold("first")
    waiting = shell.start("submit", stored, "x", "--agent", "first", "--id", "t1", "--wait")
    until(lambda: "first running" in shell.read(waiting), explain=lambda: shell.read(waiting))
    assert shell.run("cancel", stored, "t1").returncode == 0
    assert waiting.wait(30) == 1
    assert "first cancelled" in shell.read(waiting)
    assert "error: cancelled" in shell.read(waiting)


def test_a_run_of_this_process_that_is_cancelled_from_elsewhere_ends_with_exit_1(shell, until) -> None:
    shell.hold("second")
    running = shell.start("run", "crew.yaml", "x", "--id", "r1")
    until(lambda: "second started" in shell.notes(), explain=lambda: shell.read(running))
    done = shell.run("cancel", "notes", "r1")
    assert done.returncode == 0, done.stderr
    assert running.wait(30) == 1
    assert "second: cancelled" in shell.read(running)
    resumed = shell.run("run", "crew.yaml", "--resume")
    assert resumed.returncode == 2, "what was cancelled is not to be resumed"


def test_a_running_task_is_set_aside_and_goes_on_when_it_is_resumed(shell, stored, worker, until) -> None:
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
    assert waiting.wait(30) == 0, shell.read(waiting)
    assert shell.read(waiting, "out") == "first did x\n"
    assert shell.notes() == ["first started", "first started", "first ended"]


def test_what_can_not_be_done_is_told(shell, stored, until) -> None:
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


def test_a_worker_that_drains_claims_no_more_until_it_may_again(shell, stored, worker, until) -> None:
    wrong = shell.run("drain", stored, "nobody-1")
    assert wrong.returncode == 2
    name = wrong.stderr.rstrip().rpartition(" ")[2]
    assert name.endswith(f"-{worker.pid}")

    done = shell.run("drain", stored, name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "drains\n", "")
    assert "it did already" in shell.run("drain", stored, name).stderr
    shell.run("submit", stored, "x", "--id", "r1")
    late = shell.run("result", stored, "r1", "--wait", "--timeout", "1")
    assert late.returncode == 1
    assert shell.notes() == []

    off = json.loads(shell.run("drain", stored, name, "--off", "-o", "json").stdout)
    assert off == {"crew": f"default/{stored}", "worker": name, "draining": False}
    assert shell.run("result", stored, "r1", "--wait").returncode == 0


@pytest.mark.parametrize("command", ["cancel c t", "interrupt c t", "resume c t", "drain c w"])
def test_without_a_store_it_is_exit_3(shell, command) -> None:
    done = shell.run(*command.split())
    assert (done.returncode, done.stdout) == (3, "")
    assert "WATCHBILL_REDIS_URL" in done.stderr
