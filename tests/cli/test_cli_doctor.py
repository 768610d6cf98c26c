"""`doctor` without a cluster, as a person types it: what it prints, and its exit code."""

from __future__ import annotations

import json

import pytest
import redis
from shell import Shell

from watchbill.client import SyncClient
from watchbill.names import CrewKeys


def test_a_sound_store_is_worth_0_and_dead_letters_are_a_warning(shell: Shell, alone: str) -> None:
    done = shell.run("doctor", "--no-cluster", "-o", "json")
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert {finding["severity"] for finding in found.values()} <= {"ok", "warning"}
    assert found["acl"]["severity"] == "ok"
    assert "crews" in found

    with redis.Redis.from_url(shell.env["WATCHBILL_REDIS_URL"]) as client:
        client.xadd(CrewKeys("default", alone).dead, {"id": "t"})
    with SyncClient(shell.env["WATCHBILL_REDIS_URL"]) as person:
        person.close_crew(alone)
    done = shell.run("doctor", "--no-cluster")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    told = lines.index(f"warning  crews        crew default/{alone} has 1 dead letters")
    assert lines[told + 1].strip() == f"watchbill dead list default/{alone}"
    told = lines.index(f"warning  crews        crew default/{alone} is closed: it is deleted once its work has ended")
    assert lines[told + 1].strip().startswith(f"watchbill resume default/{alone} ")


@pytest.mark.parametrize("options", [(), ("--redis-url", "redis://127.0.0.1:1")], ids=["none", "away"])
def test_no_store_is_an_error_with_its_fix_and_worth_1(shell: Shell, options: tuple[str, ...]) -> None:
    done = shell.run("doctor", "--no-cluster", "-o", "json", *options)
    (finding,) = json.loads(done.stdout)
    assert done.returncode == 1
    assert (finding["check"], finding["severity"]) == ("store", "error")
    assert finding["fix"].startswith("export WATCHBILL_REDIS_URL=")


def test_no_cluster_is_passed_over_unless_it_was_asked_for(shell: Shell, alone: str) -> None:
    shell.env |= {"KUBECONFIG": str(shell.folder / "none"), "HOME": str(shell.folder)}
    for words, severity, code in (((), "skipped", 0), (("--cluster",), "error", 1)):
        done = shell.run("doctor", *words, "-o", "json")
        assert done.returncode == code
        assert done.stderr == ""
        first = json.loads(done.stdout)[0]
        assert (first["check"], first["severity"]) == ("cluster", severity)
