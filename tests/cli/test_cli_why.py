"""`why`: the explanation as people and programs read it."""

from __future__ import annotations

import json

from shell import Shell


def test_why_tells_what_a_task_waits_for_in_few_lines_and_as_json(shell: Shell, alone: str) -> None:
    shell.run("submit", alone, "x", "--agent", "first", "--id", "t0")
    shell.run("submit", alone, "x", "--agent", "first", "--id", "t1")
    told = shell.run("why", alone, "t1")
    assert told.returncode == 0
    lines = told.stdout.splitlines()
    head, _, ago = lines[0].rpartition(", submitted ")
    assert head == f"t1      waiting (task of agent first, priority normal of crew default/{alone}"
    assert ago.endswith(" ago)")
    assert lines[1:] == [
        "why     no worker lives; 1 task is before it",
        "starts  unknown: when a worker comes",
        f"look    watchbill worker default/{alone}",
    ]

    # by its id alone, and for programs
    data = json.loads(shell.run("why", "t1", "-o", "json").stdout)
    assert (data["crew"], data["reason"], data["before"]) == (f"default/{alone}", "no-worker", 1)
    assert (data["starts_in_seconds"], data["attempts"], data["pods"]) == (None, [], [])

    # a run: the step that is ready
    shell.run("submit", alone, "x", "--id", "r1")
    assert shell.run("why", alone, "r1").stdout.splitlines()[1:] == [
        "why     0 of 3 steps have ended; now: first waiting",
        "        r1/first: no worker lives; 2 tasks are before it",
        "starts  unknown: when a worker comes",
        f"look    watchbill why default/{alone} r1/first",
    ]

    # while the crew is suspended
    shell.run("suspend", alone)
    why = ["its crew is suspended; 1 task is before it", "unknown: when somebody resumes the crew"]
    look = f"look    watchbill resume default/{alone}"
    assert shell.run("why", alone, "t1").stdout.splitlines()[1:] == [f"why     {why[0]}", f"starts  {why[1]}", look]
    assert shell.run("why", alone, "r1").stdout.splitlines()[-1] == look

    missing = shell.run("why", "nobody")
    assert missing.returncode == 2
    assert "in this namespace has a run or task 'nobody'" in missing.stderr


def test_why_names_the_role_of_a_task_that_no_agent_has_yet(shell: Shell, alone: str) -> None:
    text = (shell.folder / "crew.yaml").read_text()
    (shell.folder / "crew.yaml").write_text(text.replace("{name: first,", "{name: first, roles: [scribe],"))
    assert shell.run("apply", "-f", "crew.yaml").returncode == 0
    assert shell.run("submit", alone, "x", "--role", "scribe", "--id", "t1").stdout == "t1\n"
    assert f"t1      waiting (task of role scribe, priority normal of crew default/{alone}" in (
        shell.run("why", alone, "t1").stdout
    )


def test_why_of_a_dead_task_names_the_worker_of_each_attempt_and_where_to_look(shell: Shell, alone: str) -> None:
    text = (shell.folder / "crew.yaml").read_text()
    (shell.folder / "crew.yaml").write_text(
        text.replace('first, class: "cli_agents:Note"', 'first, class: "cli_agents:Flaky"').rstrip()
        + "\n  tasks: {maxAttempts: 2, backoffSeconds: 1}\n"
    )
    failed = shell.run("run", "crew.yaml", "x", "--agent", "first", "--id", "t1")
    assert failed.returncode == 1
    lines = shell.run("why", alone, "t1").stdout.splitlines()
    assert lines[1].startswith("why     it has ended as dead in attempt 2 of 2 after ")
    assert lines[2].startswith("before  attempt 1 failed after ")
    assert " on " in lines[2]
    assert "OSError: the database is away" in lines[2]
    work = f"default/{alone} t1"
    assert lines[3:] == [f"look    watchbill dead show {work}", f"        watchbill dead replay {work}"]


def test_why_of_a_crew_is_that_of_its_oldest_work_which_could_begin(shell: Shell, alone: str) -> None:
    def first_line(*words: str) -> str:
        return shell.run("why", *words).stdout.partition(" (")[0]

    nothing = shell.run("why", alone)
    assert (nothing.returncode, nothing.stderr) == (2, f"error: all work of crew '{alone}' has ended\n")
    to_first = (alone, "x", "--agent", "first")
    shell.run("submit", *to_first, "--id", "later", "--at", "2099-01-01T00:00:00Z")
    assert first_line(alone) == "later   delayed"
    for name in ("t1", "t2"):
        shell.run("submit", *to_first, "--id", name)
    assert first_line(f"default/{alone}", "--namespace", "other") == "t1      waiting"
    shell.run("cancel", alone, "t1")
    assert first_line(alone) == "t2      waiting"
