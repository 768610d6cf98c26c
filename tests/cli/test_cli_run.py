"""`watchbill run`: a crew of YAML files in one process, with a private store."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from shell import Shell, until

DIES = """\
apiVersion: watchbill.dev/v1alpha1
kind: Crew
metadata: {name: unlucky}
spec:
  agents:
    - {name: first, class: "cli_agents:Note"}
    - {name: second, class: "cli_agents:Fail"}
    - {name: third, class: "cli_agents:Note"}
"""


def test_only_the_result_is_on_stdout_and_one_line_for_each_change_on_stderr(shell: Shell) -> None:
    done = shell.run("run", "crew.yaml", "the work")

    assert (done.returncode, done.stdout) == (0, "third did the work\n")
    lines = [re.sub(r"\d\d:\d\d:\d\d|\d+\.\ds|[0-9a-f]{32}", "#", line) for line in done.stderr.splitlines()]
    assert "an agent prints" in lines
    changes = [line for line in lines if line != "an agent prints"]
    assert [line for line in changes if not line.endswith(" running")] == [
        "# default/notes #",
        *("# first: first says hello", "# first completed #"),
        *("# second: second says hello", "# second completed #"),
        *("# third: third says hello", "# third completed #"),
        "# default/notes # completed #",
    ]
    assert "\x1b" not in done.stderr
    assert "What to try next" not in done.stderr


def test_a_terminal_shows_the_tree_then_the_result_then_what_to_try_next(shell: Shell) -> None:
    leader, follower = pty.openpty()
    shell.hold("second")
    process = subprocess.Popen(
        [sys.executable, "-m", "watchbill", "run", "crew.yaml", "the work"],
        cwd=shell.folder,
        env={**shell.env, "TERM": "xterm-256color"},
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    seen = b""
    deadline = time.monotonic() + 180
    try:
        while time.monotonic() < deadline:
            if not select.select([leader], [], [], 0.1)[0]:
                continue
            try:
                seen += os.read(leader, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if b"second says hello" in seen and (shell.folder / "hold-second").exists():
                shell.let_go("second")
        assert process.wait(180) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())

    assert re.search(r"default/notes  running  \d", text)
    assert re.search(r"├── ✔ first +completed +\d+\.\ds", text)
    assert re.search(r"├── [⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] second +running +\d+\.\ds  second says hello", text)
    assert re.search(r"└── ○ third +waiting +after second", text)
    assert re.search(r"default/notes  completed  \d", text)
    assert text.index("third did the work") > text.rindex("default/notes  completed")
    assert text.index("What to try next") > text.index("third did the work")

    suggested = re.findall(r"^  (.* -m watchbill .*?)\r?$", text, re.MULTILINE)
    assert len(suggested) == 2
    for command in suggested:
        again = subprocess.run(["bash", "-c", command], cwd=shell.folder, env=shell.env, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert "second" in again.stdout


def test_an_agent_that_returned_nothing_is_named(shell: Shell) -> None:
    crew = shell.folder / "crew.yaml"
    crew.write_text(crew.read_text() + "    - {name: last, class: 'cli_agents:forgot'}\n")
    done = shell.run("run", "crew.yaml", "x", "--id", "r")
    assert (done.returncode, done.stdout) == (0, "")
    note = "note: it completed, and there is no output: agent 'last' returned None"
    assert done.stderr.splitlines()[-1] == note
    step = shell.run("result", "notes", "r/last")
    assert (step.returncode, step.stdout, step.stderr) == (0, "", f"{note}\n")
    data = shell.run("result", "notes", "r", "-o", "json")
    assert (json.loads(data.stdout)["output"], data.stderr) == (None, "")


@pytest.mark.parametrize(("form", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_the_whole_result_can_be_had_as_data(shell: Shell, form: str, load: Callable[[str], Any]) -> None:
    done = shell.run("run", "crew.yaml", "the work", "--id", "mine", "--output", form, "--ephemeral")

    result = load(done.stdout)
    assert done.returncode == 0
    assert (result["run_id"], result["status"], result["output"]) == ("mine", "completed", "third did the work")
    assert list(result["steps"]) == ["first", "second", "third"]
    assert not (shell.folder / ".watchbill").exists()


def test_a_missing_key_is_told_before_the_first_step(shell: Shell) -> None:
    crew = shell.folder / "crew.yaml"
    crew.write_text(crew.read_text() + "    - {name: guide, model: 'openai:gpt-5-mini'}\n")
    shell.env = {name: value for name, value in shell.env.items() if not name.startswith("OPENAI_")}
    done = shell.run("run", "crew.yaml", "the work")
    assert (done.returncode, done.stdout, shell.notes()) == (2, "", [])
    assert (
        "spec.agents[3].model: model 'openai:gpt-5-mini': the environment variable OPENAI_API_KEY is not" in done.stderr
    )
    assert not (shell.folder / ".watchbill" / "appendonlydir").exists()

    done = shell.run("run", "crew.yaml", "the work", "--agent", "first")  # needs no key
    assert (done.returncode, done.stdout) == (0, "first did the work\n")


def test_a_failed_run_exits_with_1_and_says_which_step_failed_without_the_secret(shell: Shell) -> None:
    (shell.folder / "crew.yaml").write_text(DIES)
    done = shell.run("run", "crew.yaml", "x", env={"SOME_PASSWORD": "correct-horse"})

    assert (done.returncode, done.stdout) == (1, "")
    assert "error: second: ValueError: no luck with [redacted SOME_PASSWORD]" in done.stderr
    skipped, tries, mended = done.stderr.splitlines()[-3:]
    assert "third" in skipped
    assert "Traceback" not in done.stderr
    where = r"\(cli_agents.py:\d+, in run\)"
    assert re.search(rf"second dead \S+ ValueError: no luck with \[redacted SOME_PASSWORD\] {where}", done.stderr)
    advice = re.fullmatch(r"all of it: (.*); to try it again: (.*)", tries)
    assert advice, tries
    shown, replay = advice.groups()
    assert replay.endswith(f" dead replay unlucky {shown.split()[-1]}")
    apply = mended.partition(" before that: ")[2]
    again = subprocess.run(["bash", "-c", apply], cwd=shell.folder, env=shell.env, capture_output=True, text=True)
    assert again.stdout == "crew/unlucky unchanged\n", again.stderr
    letter = subprocess.run(["bash", "-c", shown], cwd=shell.folder, env=shell.env, capture_output=True, text=True)
    assert "Traceback (most recent call last)" in letter.stdout, letter.stderr
    run_id = shown.split()[-1].partition("/")[0]
    status = shell.run("status", "unlucky", run_id).stderr
    assert re.search(rf"^second: ValueError: no luck with .* {where}\nall of it: .* dead show", status)
    (step,) = (
        s for s in json.loads(shell.run("status", "unlucky", run_id, "-o", "json").stdout)["steps"] if s["error"]
    )
    assert (step["name"], "cli_agents.py" in step["error"]) == ("second", True)


def test_without_a_store_that_is_kept_the_traceback_is_printed_and_in_the_result(shell: Shell) -> None:
    (shell.folder / "crew.yaml").write_text(DIES)
    secret = {"SOME_PASSWORD": "correct-horse"}
    done = shell.run("run", "crew.yaml", "x", "--ephemeral", env=secret)
    assert re.search(r'Traceback .*\n(.*\n)*.*cli_agents.py", line \d+, in run', done.stderr)
    assert "dead show" not in done.stderr
    data = shell.run("run", "crew.yaml", "x", "--ephemeral", "-o", "json", env=secret)
    assert "Traceback (most recent call last)" in json.loads(data.stdout)["steps"]["second"]["traceback"]
    assert "correct-horse" not in done.stderr + data.stdout
    assert "correct-horse" not in done.stderr


def test_the_prompt_comes_from_stdin_or_a_file_and_inputs_from_files_or_text(shell: Shell) -> None:
    (shell.folder / "echo.yaml").write_text(
        "apiVersion: watchbill.dev/v1alpha1\nkind: Crew\nmetadata: {name: echo}\nspec:\n  agents:\n"
        '    - {name: a, class: EchoAgent, prompt: "{input}|{inputs.one}|{inputs.two}"}\n'
    )
    (shell.folder / "p.txt").write_text("from a file\n")
    (shell.folder / "one.txt").write_text("first line\nsecond\n")
    given = ("--input", "one=@one.txt", "--input", "two=a=b", "--ephemeral")

    assert shell.run("run", "echo.yaml", "-", *given, stdin="typed\n").stdout == "typed|first line\nsecond\n|a=b\n"
    assert shell.run("run", "echo.yaml", "--file", "p.txt", *given).stdout.startswith("from a file|first")
    piped = shell.run("run", "echo.yaml", "x", "--input", "one=@-", "--input", "two=2", "--ephemeral", stdin="in")
    assert piped.stdout == "x|in|2\n"


def test_a_folder_gives_all_its_files_and_one_agent_can_be_asked_alone(shell: Shell) -> None:
    (shell.folder / "more.yml").write_text((shell.folder / "crew.yaml").read_text().replace("notes", "others"))
    which = shell.run("run", ".", "x")
    assert which.returncode == 2
    assert "--crew" in which.stderr
    assert not (shell.folder / ".watchbill").exists()

    done = shell.run("run", ".", "x", "--crew", "others", "--agent", "second", "--ephemeral")
    assert (done.returncode, done.stdout) == (0, "second did x\n")
    assert shell.notes() == ["second started", "second ended"]
    assert re.search(r"second completed \d", done.stderr)


def test_a_run_that_was_killed_goes_on_where_it_was_and_repeats_no_finished_step(shell: Shell) -> None:
    shell.hold("second")
    killed = shell.start("run", "crew.yaml", "the work", "--id", "mine")
    until(lambda: "second started" in shell.notes(), explain=lambda: shell.read(killed))
    killed.kill()
    killed.wait()
    shell.let_go("second")
    until(lambda: not shell.servers())

    done = shell.run("run", "crew.yaml", "--resume")

    assert (done.returncode, done.stdout) == (0, "third did the work\n")
    assert "going on with run mine: 1 of 3 steps done" in done.stderr
    assert shell.notes() == [
        "first started",
        "first ended",
        "second started",  # and killed
        "second started",
        "second ended",
        "third started",
        "third ended",
    ]

    nothing = shell.run("run", "crew.yaml", "--resume")
    assert nothing.returncode == 2
    assert "no unfinished run" in nothing.stderr


def test_resume_with_another_prompt_starts_a_new_run_and_says_that_the_old_one_goes_on_beside_it(shell: Shell) -> None:
    shell.hold("first")
    killed = shell.start("run", "crew.yaml", "old", "--id", "old")
    until(lambda: "first started" in shell.notes(), explain=lambda: shell.read(killed))
    killed.kill()
    killed.wait()
    shell.let_go("first")

    done = shell.run("run", "crew.yaml", "new", "--resume")
    assert (done.returncode, done.stdout) == (0, "third did new\n")
    assert "starting a new one" in done.stderr

    old = shell.run("run", "crew.yaml", "old", "--resume")  # unless it ended beside the new one
    assert (old.returncode, old.stdout) == (0, "third did old\n")


def test_without_resume_unfinished_work_is_told_of(shell: Shell) -> None:
    shell.hold("first")
    killed = shell.start("run", "crew.yaml", "old", "--id", "old")
    until(lambda: "first started" in shell.notes(), explain=lambda: shell.read(killed))
    killed.kill()
    killed.wait()
    shell.let_go("first")

    done = shell.run("run", "crew.yaml", "new")

    assert (done.returncode, done.stdout) == (0, "third did new\n")
    assert "note: unfinished work of this crew (1 before this) goes on beside it" in done.stderr


def test_another_prompt_under_the_id_of_a_run_is_refused(shell: Shell) -> None:
    assert shell.run("run", "crew.yaml", "one", "--id", "mine").stdout == "third did one\n"
    other = shell.run("run", "crew.yaml", "two", "--id", "mine")
    assert (other.returncode, other.stdout) == (2, "")
    assert "'mine' is the id of other work" in other.stderr


def test_a_timeout_exits_with_1_and_keeps_the_run(shell: Shell) -> None:
    shell.hold("second")
    late = shell.run("run", "crew.yaml", "x", "--timeout", "1.5")

    assert (late.returncode, late.stdout) == (1, "")
    assert "not finished after 1.5 s" in late.stderr
    assert "--resume" in late.stderr
    shell.let_go("second")
    assert shell.run("run", "crew.yaml", "--resume").stdout == "third did x\n"


def test_watch_fires_heartbeats_and_prints_events_until_it_is_told_to_stop(shell: Shell) -> None:
    heartbeat = (
        "---\napiVersion: watchbill.dev/v1alpha1\nkind: Heartbeat\nmetadata: {name: tick}\n"
        "spec: {crewRef: {name: notes}, agent: first, intervalSeconds: 1, prompt: tick}\n"
    )
    with (shell.folder / "crew.yaml").open("a") as file:
        file.write(heartbeat)
    process = shell.start("run", "crew.yaml", "asked", "--watch", "--output", "json")

    def events() -> list[dict[str, str]]:
        return [json.loads(line) for line in shell.read(process, "out").splitlines(keepends=True) if line[-1] == "\n"]

    def completed() -> list[str]:
        return [e["task_id"] for e in events() if e["event_type"] == "task_completed" and e["agent_id"] == "first"]

    until(lambda: len(completed()) >= 3, explain=lambda: shell.read(process))  # two ticks, and the run's own
    until(lambda: any(e.get("new_state") == "completed" for e in events()))
    process.terminate()
    assert process.wait(180) == 143

    assert "watching default/notes with 1 heartbeat" in shell.read(process)
    assert "submitted" in shell.read(process)
    assert len(set(completed())) == len(completed())


def test_watch_prints_what_came_of_each_heartbeat_and_when_it_fires_next(shell: Shell) -> None:
    heartbeat = (
        "---\napiVersion: watchbill.dev/v1alpha1\nkind: Heartbeat\nmetadata: {{name: {name}}}\n"
        "spec: {{crewRef: {{name: notes}}, schedule: '0 0 1 1 *', prompt: 'the news', {more}}}\n"
    )
    fails = "    - {name: fails, class: 'cli_agents:Fail'}\n"
    with (shell.folder / "crew.yaml").open("a") as file:
        file.write(heartbeat.format(name="one", more="agent: first"))
        file.write(heartbeat.format(name="two", more="agent: fails") + heartbeat.format(name="all", more=""))
    crew = (shell.folder / "crew.yaml").read_text().replace("spec:\n", "spec:\n  tasks: {maxAttempts: 1}\n", 1)
    (shell.folder / "crew.yaml").write_text(crew.replace("---\n", f"{fails}---\n", 1))
    process = shell.start("run", "crew.yaml", "--watch")
    at = r"\d{4}-(01-01|12-31) \d\d:\d\d:00"  # in the zone of whoever runs this
    until(lambda: re.search(rf"heartbeat all: fires next at ({at})\n", shell.read(process)))
    assert shell.run("submit", "notes", "--heartbeat", "one", "--id", "now-1").returncode == 0
    assert shell.run("submit", "notes", "--heartbeat", "two").returncode == 0
    assert shell.run("submit", "notes", "--heartbeat", "all").returncode == 0
    wanted = [
        rf"\d\d:\d\d:\d\d default/notes heartbeat {line} \(fires next at ({at})\)\n"
        for line in (
            "one completed: first did the news",
            "two failed: ValueError: no luck.*",
            "all failed: .*no luck.*",
        )
    ]
    until(lambda: all(re.search(line, shell.read(process, "out")) for line in wanted), 180, lambda: shell.read(process))
    process.terminate()
    assert process.wait(180) == 143
    assert shell.read(process, "out").count("fires next at") == 3, "one line each, and none for steps"


def test_health_is_served_where_asked_and_a_taken_port_is_named(shell: Shell) -> None:
    from urllib.request import urlopen

    shell.hold("first")
    process = shell.start("run", "crew.yaml", "x", "--health-port", "0")
    until(lambda: "health at http" in shell.read(process), explain=lambda: shell.read(process))
    (port,) = re.findall(r"http://127.0.0.1:(\d+)", shell.read(process))
    with urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
        assert answer.status == 200
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        page = answer.read().decode()
    assert "watchbill_tasks_claimed_total{" in page
    assert "_created" not in page
    assert "watchbill_operator_" not in page, "a leader of 0 would tell of an outage"

    taken = shell.run("run", "crew.yaml", "x", "--ephemeral", "--health-port", port)
    assert taken.returncode == 2
    assert f"--health-port: 127.0.0.1:{port} can't be listened on" in taken.stderr
    shell.let_go("first")
    assert process.wait(180) == 0


def test_a_heartbeat_is_fired_at_once_where_asked_and_once_for_each_id(shell: Shell) -> None:
    with (shell.folder / "crew.yaml").open("a") as file:
        file.write(
            "---\napiVersion: watchbill.dev/v1alpha1\nkind: Heartbeat\nmetadata: {name: yearly}\n"
            "spec: {crewRef: {name: notes}, agent: first, schedule: '0 0 1 1 *', prompt: happy new year}\n"
        )
    process = shell.start("run", "crew.yaml", "--watch")
    until(lambda: "watching" in shell.read(process), explain=lambda: shell.read(process))

    fired = [shell.run("submit", "notes", "--heartbeat", "yearly", "--id", "early", "--wait") for _ in range(2)]
    unknown = shell.run("submit", "notes", "--heartbeat", "never")
    both = shell.run("submit", "notes", "a prompt", "--heartbeat", "yearly")
    until(lambda: "task_completed first" in shell.read(process, "out"), explain=lambda: shell.read(process, "out"))
    process.terminate()
    assert process.wait(180) == 143

    assert [(done.returncode, done.stdout) for done in fired] == [(0, fired[0].stdout)] * 2
    assert shell.read(process, "out").count("task_completed first") == 1
    assert unknown.returncode == 2
    assert "no heartbeat 'never'" in unknown.stderr
    assert both.returncode == 2
    assert "--heartbeat" in both.stderr
