"""`apply`, `get`, `delete`: a store is given its crews, and workers and clients elsewhere find them there."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
import yaml
from shell import Shell

from watchbill import connection
from watchbill.names import CrewKeys
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store import definitions

HEARTBEAT = """\
---
apiVersion: watchbill.dev/v1alpha1
kind: Heartbeat
metadata: {{name: early}}
spec: {{crewRef: {{name: {name}}}, schedule: "0 4 * * *", timeZone: Europe/Berlin, prompt: "{prompt}"}}
"""


@pytest.fixture
def named(shell: Shell, redis_url: str, crew_name: str) -> str:
    """The name of a crew in a file of the shell's folder, which is in no store yet; the shell's store is the tests'."""
    shell.write_crew(crew_name)
    shell.env["WATCHBILL_REDIS_URL"] = redis_url
    return crew_name


def add(shell: Shell, text: str) -> None:
    with (shell.folder / "crew.yaml").open("a") as file:
        file.write(text)


def test_a_crew_that_was_applied_is_worked_for_and_given_work_elsewhere(shell: Shell, named: str) -> None:
    """As README has it: apply, worker, submit, on a store that knew nothing of it."""
    assert shell.run("apply", "-f", "crew.yaml").stdout == f"crew/{named} created\n"
    assert shell.run("apply", "-f", "crew.yaml").stdout == f"crew/{named} unchanged\n"
    shell.start("worker", named)
    done = shell.run("submit", named, "the work", "--wait")
    assert (done.returncode, done.stdout) == (0, "third did the work\n")


def test_what_was_changed_is_told_and_heartbeats_come_along(shell: Shell, named: str) -> None:
    add(shell, HEARTBEAT.format(name=named, prompt="Wake up."))
    said = shell.run("apply", "-f", ".", "-o", "json")
    changes = [(one["kind"], one["change"]) for one in json.loads(said.stdout)]
    assert changes == [("crew", "created"), ("heartbeat", "created")]
    text = (shell.folder / "crew.yaml").read_text()
    (shell.folder / "crew.yaml").write_text(text.replace("name: first", "name: zeroth"))
    assert shell.run("apply", "-f", ".").stdout == f"crew/{named} configured\nheartbeat/early unchanged\n"
    beats = json.loads(shell.run("get", "heartbeats", named, "-o", "json").stdout)
    assert [(beat["name"], beat["schedule"], beat["prompt"]) for beat in beats] == [
        ("early", "0 4 * * * Europe/Berlin", "Wake up.")
    ]
    table = shell.run("get", "crews").stdout.splitlines()
    assert f"{named} sequential zeroth, second, third 1".split() in [line.split() for line in table]

    # what is printed can be applied again, and is the same
    (shell.folder / "crew.yaml").write_text(shell.run("get", "crew", named, "-o", "yaml").stdout)
    assert shell.run("apply", "-f", "crew.yaml").stdout == f"crew/{named} unchanged\n"


def test_a_heartbeat_may_be_applied_to_a_crew_that_is_there_and_to_no_other(shell: Shell, named: str) -> None:
    alone = shell.folder / "beat.yaml"
    alone.write_text(HEARTBEAT.format(name=named, prompt="Wake up."))
    refused = shell.run("apply", "-f", "beat.yaml")
    assert refused.returncode == 2
    assert f"crew '{named}'" in refused.stderr
    shell.run("apply", "-f", "crew.yaml")
    assert shell.run("apply", "-f", "beat.yaml").stdout == "heartbeat/early created\n"
    assert shell.run("delete", "heartbeat", "early", "--crew", named).stdout == "heartbeat/early deleted\n"
    assert shell.run("get", "heartbeats", named).stdout == ""
    again = shell.run("delete", "-f", "beat.yaml")
    assert (again.returncode, "has no heartbeat 'early'; it has: none" in again.stderr) == (2, True)


def test_a_crew_is_deleted_by_name_or_file_with_all_its_work(shell: Shell, named: str) -> None:
    shell.run("apply", "-f", "crew.yaml")
    shell.run("submit", named, "x", "--id", "mine")
    assert shell.run("delete", "crew", named).stdout == f"crew/{named} deleted\n"
    for command in (("result", named, "mine"), ("status", named), ("worker", named), ("delete", "crew", named)):
        missing = shell.run(*command)
        assert missing.returncode == 2, command
        assert f"the store has no crew 'default/{named}'" in missing.stderr
        assert "watchbill apply -f FILE" in missing.stderr
    shell.run("apply", "-f", "crew.yaml")
    assert shell.run("delete", "-f", "crew.yaml").stdout == f"crew/{named} deleted\n"
    assert named not in shell.run("get", "crews").stdout


def test_on_a_terminal_work_is_not_deleted_unasked(shell: Shell, named: str) -> None:
    shell.run("apply", "-f", "crew.yaml")
    shell.run("submit", named, "x", "--id", "mine")
    code, said = shell.on_terminal("delete", "crew", named, typed=b"n\n")
    assert (code, "nothing was deleted" in said) == (1, True)
    assert shell.run("status", named, "mine").returncode == 0
    assert shell.on_terminal("delete", "crew", named, typed=b"y\n")[0] == 0
    assert shell.run("status", named, "mine").returncode == 2


def test_what_can_not_be_loaded_here_is_a_note_and_what_is_wrong_an_error(shell: Shell, named: str) -> None:
    text = (shell.folder / "crew.yaml").read_text()
    (shell.folder / "crew.yaml").write_text(text.replace('"cli_agents:Note"', '"elsewhere:Note"', 1))
    there = shell.run("apply", "-f", "crew.yaml")
    assert (there.returncode, there.stdout) == (0, f"crew/{named} created\n")
    assert "note: crew" in there.stderr
    assert "elsewhere" in there.stderr
    (shell.folder / "crew.yaml").write_text(text.replace("name: first", "name: second"))
    wrong = shell.run("apply", "-f", "crew.yaml")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "crew.yaml:" in wrong.stderr


def test_a_crew_of_an_operator_is_left_to_it(shell: Shell, named: str, redis_url: str) -> None:
    async def apply() -> None:
        async with connection.connected(redis_url) as client:
            crew = CrewDefinition(name=named, agents=[AgentDefinition(agent_id="a")])
            await definitions.apply(client, CrewKeys("default", named), crew, uid="uid-1", owner="watchbill@1")

    asyncio.run(apply())
    for command, use in (
        (("apply", "-f", "crew.yaml"), "kubectl apply -n default -f FILE"),
        (("delete", "crew", named), f"kubectl delete crew -n default {named}"),
    ):
        refused = shell.run(*command)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert use in refused.stderr
    assert shell.run("submit", named, "x", "--agent", "a", "--id", "t").stdout == "t\n"


def test_the_private_store_is_given_crews_too(shell: Shell) -> None:
    assert shell.run("get", "crews").returncode == 3, "there is none yet"
    assert shell.run("apply", "-f", "crew.yaml").stdout == "crew/notes created\n"
    assert shell.run("submit", "notes", "x", "--id", "mine").stdout == "mine\n"
    assert yaml.safe_load(shell.run("get", "crews", "-o", "yaml").stdout)["items"][0]["metadata"]["name"] == "notes"
    assert Path(shell.folder, ".watchbill").is_dir()


def test_heartbeats_are_shown_with_their_times_and_what_they_fired(shell: Shell, named: str) -> None:
    add(shell, HEARTBEAT.format(name=named, prompt="Wake up."))
    shell.run("apply", "-f", ".")
    fired = shell.run("submit", named, "--heartbeat", "early").stdout.strip()
    [told] = json.loads(shell.run("heartbeats", named, "-o", "json", "--count", "3").stdout)
    assert (told["name"], told["suspended"], len(told["next"])) == ("early", False, 3)
    assert [(work["id"], work["state"], work["finished"]) for work in told["last"]] == [(fired, "running", None)]
    shown = shell.run("heartbeats", named).stdout
    assert "0 4 * * * Europe/Berlin" in shown
    assert f"{fired}  running" in shown
    assert len(shown.splitlines()) == 2 + 1 + 11 + 1 + 2, "its own row, ten times, one run; each with a header"
    assert re.search(rf"^{named} +early ", shell.run("heartbeats").stdout, re.MULTILINE)

    shell.run("suspend", named)
    at_rest = shell.run("heartbeats", named)
    assert "crew suspended" in at_rest.stdout
    assert at_rest.stderr.strip().endswith(
        f"crew default/{named} is suspended, and none of its heartbeats fires until: watchbill resume default/{named}"
    )
    [told] = json.loads(shell.run("heartbeats", named, "-o", "json").stdout)
    assert (told["suspended"], told["crew_suspended"], told["next"]) == (True, True, [])
