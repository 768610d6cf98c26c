"""Signals: the first stops in good order, the second at once; whatever comes, no server is left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import redis
from shell import Shell, until

from watchbill import state_folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_told_to_stop_finishes_its_step_and_says_how_to_go_on(
    shell: Shell, number: signal.Signals, code: int
) -> None:
    shell.hold("second")
    process = shell.start("run", "crew.yaml", "the work", "--id", "mine")
    until(lambda: "second started" in shell.notes(), explain=lambda: shell.read(process))
    assert shell.servers()

    process.send_signal(number)
    until(lambda: "may still finish" in shell.read(process), explain=lambda: shell.read(process))
    shell.let_go("second")
    assert process.wait(180) == code

    assert shell.notes()[-1] == "second ended"  # and the third never began
    assert "mine is kept. To go on: " in shell.read(process)
    assert "run crew.yaml --resume" in shell.read(process)
    assert shell.read(process, "out") == ""
    until(lambda: not shell.servers())

    done = shell.run("run", "crew.yaml", "--resume")
    assert (done.returncode, done.stdout) == (0, "third did the work\n")
    assert shell.notes().count("second started") == 1


def test_a_second_signal_hands_the_work_back_at_once(shell: Shell) -> None:
    shell.hold("second")
    process = shell.start("run", "crew.yaml", "the work", env={"WATCHBILL_GRACE_SECONDS": "3600"})
    until(lambda: "second started" in shell.notes(), explain=lambda: shell.read(process))
    process.send_signal(signal.SIGINT)
    until(lambda: "may still finish" in shell.read(process), explain=lambda: shell.read(process))
    process.send_signal(signal.SIGINT)
    assert process.wait(180) == 130
    until(lambda: not shell.servers())

    shell.let_go("second")
    assert shell.run("run", "crew.yaml", "--resume").stdout == "third did the work\n"


@pytest.mark.parametrize(("prompt", "code", "out"), [("go on", 0, "left it\n"), ("wait", 130, "")])
def test_a_call_that_an_agent_left_in_a_thread_keeps_no_command_from_ending(
    shell: Shell, prompt: str, code: int, out: str
) -> None:
    """A call without a timeout in the event loop's own threads: nobody can end it, and the loop would wait for it."""
    crew = (shell.folder / "crew.yaml").read_text()
    (shell.folder / "crew.yaml").write_text(crew.replace("cli_agents:Note", "cli_agents:Leaves", 1))
    process = shell.start("run", "crew.yaml", prompt, "--agent", "first")
    until(lambda: "left it" in shell.notes(), explain=lambda: shell.read(process))
    if prompt == "wait":
        process.send_signal(signal.SIGINT)
        until(lambda: "may still finish" in shell.read(process), explain=lambda: shell.read(process))
        process.send_signal(signal.SIGINT)
    assert process.wait(180) == code
    assert shell.read(process, "out") == out
    until(lambda: not shell.servers())


def test_a_killed_run_leaves_no_server(shell: Shell) -> None:
    shell.hold("first")
    process = shell.start("run", "crew.yaml", "the work", "--ephemeral", env={"TMPDIR": str(shell.folder)})
    until(lambda: "first started" in shell.notes(), explain=lambda: shell.read(process))
    assert len(shell.servers()) == 2, "the server and its watchdog"
    process.kill()
    process.wait()
    until(lambda: not shell.servers())


@pytest.mark.parametrize("options", [(), ("--ephemeral",)], ids=["kept", "ephemeral"])
def test_a_run_goes_on_when_its_server_is_killed(shell: Shell, options: tuple[str, ...]) -> None:
    shell.hold("second")
    process = shell.start("run", "crew.yaml", "the work", *options, env={"TMPDIR": str(shell.folder)})
    until(lambda: "second started" in shell.notes(), explain=lambda: shell.read(process))
    if not options:  # while an fsync is slow, the server has answered more than it has written
        until(lambda: has_written(shell.folder / ".watchbill"))
    for pid in shell.servers():  # the server, and for a moment nobody who could stop the next one
        os.kill(pid, signal.SIGKILL)
    shell.let_go("second")
    assert process.wait(180) == 0
    assert shell.read(process, "out") == "third did the work\n"
    assert shell.notes().count("second started") == 1
    assert "was killed by signal 9; it is started again" in shell.read(process)
    until(lambda: not shell.servers())


def has_written(folder: Path) -> bool:
    """Whether a kill takes nothing from the store there."""
    with redis.Redis(unix_socket_path=str(state_folder.socket_path(folder.resolve()))) as client:
        now = client.info("persistence")
    return (now["aof_pending_bio_fsync"], now["aof_buffer_length"]) == (0, 0)


def test_a_follower_ends_at_ctrl_c(shell: Shell) -> None:
    assert shell.run("run", "crew.yaml", "x").returncode == 0
    process = shell.start("events", "notes", "--follow")
    until(lambda: "mission_state_changed" in shell.read(process, "out"))
    process.send_signal(signal.SIGINT)
    assert process.wait(180) == 130
    assert "Traceback" not in shell.read(process)
    until(lambda: not shell.servers())


def test_when_the_owner_of_the_store_is_killed_the_other_takes_over_store_and_work_at_once(shell: Shell) -> None:
    text = (shell.folder / "crew.yaml").read_text()
    (shell.folder / "crew.yaml").write_text(text.replace("spec:\n", "spec:\n  tasks: {leaseSeconds: 600}\n"))
    shell.hold("first")
    owner = shell.start("run", "crew.yaml", "one", "--id", "one")
    until(lambda: shell.notes() == ["first started"], explain=lambda: shell.read(owner))
    other = shell.start("run", "crew.yaml", "two", "--id", "two")
    until(lambda: shell.notes().count("first started") == 2, explain=lambda: shell.read(other))
    assert "unfinished work of this crew (1 before this)" in shell.read(other)

    owner.kill()
    owner.wait()
    # Long before the lease ends: the one that takes over knows that the process has ended
    until(lambda: shell.notes().count("first started") >= 3, explain=lambda: f"{shell.notes()} {shell.read(other)}")
    shell.let_go("first")

    assert other.wait(180) == 0
    assert shell.read(other, "out") == "third did two\n"
