"""`dead`: what failed for good is listed, shown, tried again and removed."""

from __future__ import annotations

import json
import subprocess

import pytest
import redis
import yaml
from shell import Shell, until

CREW = """\
apiVersion: watchbill.dev/v1alpha1
kind: Crew
metadata: {{name: {name}}}
spec:
  tasks: {{maxAttempts: 2, backoffSeconds: 1}}
  agents:
    - {{name: flaky, class: "cli_agents:Flaky"}}
    - {{name: after, class: "cli_agents:Note"}}
"""


@pytest.fixture
def died(shell: Shell, redis_url: str, crew_name: str) -> str:
    """A crew with three dead letters, of tasks t1 and t2 and of the first step of r1; and a worker of it."""
    shell.write_crew(crew_name)
    (shell.folder / "crew.yaml").write_text(CREW.format(name=crew_name))
    shell.env["WATCHBILL_REDIS_URL"] = redis_url
    worker = shell.start("run", "crew.yaml", "--watch")
    until(lambda: "watching" in shell.read(worker), explain=lambda: shell.read(worker))
    for task in ("t1", "t2"):
        assert shell.run("submit", crew_name, f"work of {task}", "--agent", "flaky", "--id", task).returncode == 0
    assert shell.run("submit", crew_name, "work of r1", "--id", "r1", "--wait").returncode == 1
    for task in ("t1", "t2"):
        assert shell.run("result", crew_name, task, "--wait").returncode == 1
    return crew_name


def letters(shell: Shell, crew: str, *arguments: str) -> set[str]:
    return {row["task_id"] for row in json.loads(shell.run("dead", "list", crew, *arguments, "-o", "json").stdout)}


def test_letters_are_listed_and_shown(shell: Shell, died: str) -> None:
    lines = shell.run("dead", "list", died).stdout.splitlines()
    assert lines[0].split() == ["TASK", "AGENT", "ATTEMPTS", "DIED", "REASON"]
    rows = {line.split()[0]: line for line in lines[1:]}
    assert set(rows) == {"t1", "t2", "r1/flaky"}
    assert rows["t1"].split()[1:3] == ["flaky", "2"]
    assert "the database is away" in rows["t1"]

    (one,) = (row for row in json.loads(shell.run("dead", "list", died, "-o", "json").stdout) if row["task_id"] == "t1")
    assert (one["agent"], one["attempts"], one["replayable"]) == ("flaky", 2, True)
    shown = shell.run("dead", "show", died, "t1").stdout
    for part in ("task_id:", "\nprompt:\nwork of t1\n", "Traceback", "OSError: the database is away"):
        assert part in shown
    data = yaml.safe_load(shell.run("dead", "show", died, one["id"], "-o", "yaml").stdout)
    assert (data["task_id"], data["prompt"]) == ("t1", "work of t1")
    missing = shell.run("dead", "show", died, "nobody")
    assert (missing.returncode, missing.stdout) == (2, "")


def test_letters_are_chosen_by_filters(shell: Shell, died: str) -> None:
    assert letters(shell, died, "--agent", "flaky", "--reason", "DATABASE") == {"t1", "t2", "r1/flaky"}
    assert letters(shell, died, "--agent", "after") == set()
    assert letters(shell, died, "--newer-than", "1h") == {"t1", "t2", "r1/flaky"}
    assert letters(shell, died, "--older-than", "1h") == set()
    none = shell.run("dead", "list", died, "--older-than", "1h")
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "no dead letter matches\n")


def test_letters_are_replayed_and_their_work_completes(shell: Shell, died: str) -> None:
    (shell.folder / "fixed").touch()
    some = shell.run("dead", "replay", died, "t1", "nobody")
    assert (some.returncode, some.stdout) == (1, "t1\n")
    assert "nobody was not replayed: there is no such dead letter" in some.stderr
    assert "t1 runs with the crew's current definition" in some.stderr
    assert shell.run("result", died, "t1", "--wait").stdout == "done at last\n"
    rest = shell.run("dead", "replay", died, "--all", "-o", "json")
    assert rest.returncode == 0
    assert "r1/flaky runs with the definition that its run began with: the store has the same one now" in rest.stderr
    assert {(row["task_id"], row["outcome"]) for row in json.loads(rest.stdout)} == {
        ("t2", "replayed"),
        ("r1/flaky", "replayed"),
    }
    assert shell.run("result", died, "r1", "--wait").stdout == "after did work of r1\n"
    assert letters(shell, died) == set()
    nothing = shell.run("dead", "replay", died, "--all")
    assert (nothing.returncode, nothing.stderr) == (0, "no dead letters\n")


def test_letters_are_purged_and_nothing_is_where_one_is_not_there(shell: Shell, died: str) -> None:
    missing = shell.run("dead", "purge", died, "t1", "nobody")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "no such dead letter: nobody" in missing.stderr
    assert letters(shell, died) == {"t1", "t2", "r1/flaky"}
    assert shell.run("dead", "purge", died, "t1").stdout == "1 dead letter removed\n"
    purged = json.loads(shell.run("dead", "purge", died, "--agent", "flaky", "-o", "json").stdout)
    assert purged == {"crew": f"default/{died}", "purged": 2}
    assert letters(shell, died) == set()


def test_on_a_terminal_a_purge_asks_first(shell: Shell, died: str) -> None:
    for typed, code in ((b"\n", 1), (b"no\n", 1), (b"\x04", 1), (b"\x03", 130)):
        done, said = shell.on_terminal("dead", "purge", died, "--all", typed=typed)
        assert done == code, said
        assert "Remove 3 dead letters" in said
        assert len(letters(shell, died)) == 3
    assert shell.on_terminal("dead", "purge", died, "t1", typed=b"y\n")[0] == 0
    assert letters(shell, died) == {"t2", "r1/flaky"}
    assert shell.on_terminal("dead", "purge", died, "--all", "--yes", typed=b"") == (0, "")
    assert letters(shell, died) == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("replay c", "no dead letters are chosen to be replayed"),
        ("purge c", "no dead letters are chosen to be purged"),
        ("purge c t1 --all", "--all and ids contradict each other"),
        ("list c --older-than soon", "--older-than: 'soon' is not a span of time. Write 90s, 30m, 12h or 7d."),
        ("list c --older-than 7d --newer-than 1h", "nothing is older than 7d and newer than 1h"),
    ],
)
def test_what_is_not_clear_is_refused_before_anything_is_opened(shell: Shell, arguments: str, message: str) -> None:
    done = shell.run("dead", *arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize("command", ["list c", "show c t", "replay c --all", "purge c --all"])
def test_without_a_store_it_is_exit_3_and_without_the_crew_exit_2(shell: Shell, redis_url: str, command: str) -> None:
    assert shell.run("dead", *command.split()).returncode == 3
    missing = shell.run("dead", *command.split(), "--redis-url", redis_url)
    assert missing.returncode == 2
    assert "no crew 'default/c'" in missing.stderr


def test_what_could_never_be_read_has_a_letter_by_its_own_id(
    shell: Shell, stored: str, worker: subprocess.Popen[str], redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as store:
        store.xadd(f"wb:{{default/{stored}}}:tasks:5", {b"what": b"\xff\xfe"})
    assert shell.run("submit", stored, "x", "--agent", "first", "--wait").returncode == 0
    (row,) = json.loads(shell.run("dead", "list", stored, "-o", "json").stdout)
    assert (row["task_id"], row["replayable"]) == ("", False)
    assert shell.run("dead", "list", stored).stdout.splitlines()[1].split()[0] == row["id"]
    shown = shell.run("dead", "show", stored, row["id"])
    assert "\nraw:\nwhat: base64://4=\n" in shown.stdout
    refused = shell.run("dead", "replay", stored, "--all")
    assert refused.returncode == 1
    assert "its prompt and inputs are no longer stored" in refused.stderr
    assert shell.run("dead", "purge", stored, row["id"]).returncode == 0


MENDED = """\
apiVersion: watchbill.dev/v1alpha1
kind: Crew
metadata: {{name: notes}}
spec:
  tasks: {{maxAttempts: 1}}
  agents:
    - {{name: one, class: EchoAgent}}
    - {{name: two, class: "cli_agents:{two}"}}
"""


def test_a_failed_run_goes_on_with_what_was_mended_in_the_file(shell: Shell) -> None:
    (shell.folder / "crew.yaml").write_text(MENDED.format(two="Fail"))
    assert shell.run("run", "crew.yaml", "x", "--id", "r1").returncode == 1
    (shell.folder / "crew.yaml").write_text(MENDED.format(two="Note"))

    told = shell.run("run", "crew.yaml", "--resume")
    assert told.returncode == 2
    assert "Run r1 has failed. To go on with it: " in told.stderr
    apply, replay = told.stderr.partition("go on with it: ")[2].split(", ")[:2]
    assert apply.endswith("watchbill apply -f crew.yaml")
    assert replay.endswith("watchbill dead replay notes r1/two")
    # what `apply` does, by the way that was there before it
    assert shell.run("run", "crew.yaml", "y").returncode == 0
    replayed = shell.run("dead", "replay", "notes", "r1/two")
    assert (replayed.returncode, replayed.stdout) == (0, "r1/two\n")
    assert "r1/two runs with the crew's current definition" in replayed.stderr
    assert "note: crew 'notes' has no worker now, so this waits." in replayed.stderr
    done = shell.run("run", "crew.yaml", "--resume")
    assert (done.returncode, done.stdout) == (0, "two did x\n")
    assert "the definition that it began with" not in done.stderr


def test_how_to_go_on_takes_away_no_model_that_was_chosen_for_the_run(shell: Shell) -> None:
    (shell.folder / "crew.yaml").write_text(MENDED.format(two="Fail"))
    assert shell.run("run", "crew.yaml", "x", "--id", "r1", "--model", "test").returncode == 1
    start, end = "To go on with it: ", ". Or give a prompt"

    def ways(*arguments: str) -> list[str]:
        told = shell.run("run", "crew.yaml", "--resume", *arguments).stderr
        replay, *more = told.partition(start)[2].partition(end)[0].split(", ")
        assert replay.endswith("watchbill dead replay notes r1/two"), told
        return more

    assert ways() == ["then this command once more"]
    assert ways("--model", "openai:x") == ["then this command once more without --model"]
    (shell.folder / "crew.yaml").write_text(MENDED.format(two="Note"))  # `apply` has no --model
    assert ways("--model", "test") == ["then this command once more"]


def test_a_resumed_run_keeps_its_model_and_is_not_said_to_have_other_files(shell: Shell) -> None:
    shell.hold("first")
    killed = shell.start("run", "crew.yaml", "the work", "--id", "mine", "--model", "test")
    until(lambda: "first started" in shell.notes(), explain=lambda: shell.read(killed))
    killed.kill()
    killed.wait()
    shell.let_go("first")

    ignored = shell.run("run", "crew.yaml", "--resume", "--model", "openai:x")
    assert ignored.returncode == 2
    assert "watchbill run crew.yaml --model openai:x PROMPT" in ignored.stderr
    done = shell.run("run", "crew.yaml", "--resume")
    assert (done.returncode, done.stdout) == (0, "third did the work\n")
    assert "note: run mine goes on with model 'test', which it began with" in done.stderr


def test_a_resumed_run_says_that_it_keeps_the_definition_that_it_began_with(shell: Shell) -> None:
    shell.hold("first")
    killed = shell.start("run", "crew.yaml", "the work", "--id", "mine")
    until(lambda: "first started" in shell.notes(), explain=lambda: shell.read(killed))
    killed.kill()
    killed.wait()
    shell.let_go("first")
    text = (shell.folder / "crew.yaml").read_text()
    (shell.folder / "crew.yaml").write_text(text.replace("spec:\n", "spec:\n  description: mended\n"))

    ignored = shell.run("run", "crew.yaml", "--resume", "--model", "test")
    assert ignored.returncode == 2
    assert "--model: run mine goes on with the definition that it began with" in ignored.stderr
    done = shell.run("run", "crew.yaml", "--resume")
    assert (done.returncode, done.stdout) == (0, "third did the work\n")
    assert "note: run mine goes on with the definition that it began with" in done.stderr
    assert "watchbill run crew.yaml PROMPT" in done.stderr
