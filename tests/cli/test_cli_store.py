"""`submit result status events worker`: several processes around one store, and what they say when there is none."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
import yaml
from shell import Shell, until

from watchbill.names import CrewKeys

OTHERS = ("submit c x", "result c id", "status", "events c", "worker c")


def test_work_is_submitted_in_one_process_and_done_in_another(
    shell: Shell, stored: str, worker: subprocess.Popen[str]
) -> None:
    done = shell.run("submit", stored, "the work", "--wait", "--id", "mine")

    assert (done.returncode, done.stdout) == (0, "third did the work\n")
    assert "third completed" in done.stderr
    assert shell.notes()[0] == "first started"
    assert not (shell.folder / ".watchbill").exists()

    again = shell.run("submit", stored, "the work", "--wait", "--id", "mine")  # the same id is the same work
    assert (again.returncode, again.stdout) == (0, "third did the work\n")
    assert shell.notes().count("first started") == 1

    other = shell.run("submit", stored, "other work", "--id", "mine")
    assert (other.returncode, other.stdout) == (2, "")
    assert "'mine' is the id of other work" in other.stderr

    assert shell.run("result", stored, "mine").stdout == "third did the work\n"
    assert shell.run("result", stored, "mine/first").stdout == "first did the work\n"
    assert yaml.safe_load(shell.run("result", stored, "mine", "-o", "yaml").stdout)["status"] == "completed"


def test_one_agent_can_be_asked_alone_by_data_and_by_priority(
    shell: Shell, stored: str, worker: subprocess.Popen[str]
) -> None:
    done = shell.run(
        *("submit", stored, "-", "--agent", "second", "--priority", "high", "--wait", "-o", "json"), stdin="hello\n"
    )

    assert done.returncode == 0
    assert json.loads(done.stdout)["output"] == "second did hello"
    assert shell.notes() == ["second started", "second ended"]


def test_a_dedupe_key_gives_the_id_of_the_first(shell: Shell, stored: str) -> None:
    first = shell.run("submit", stored, "x", "--dedupe-key", "daily").stdout
    assert shell.run("submit", stored, "y", "--dedupe-key", "daily").stdout == first
    other = json.loads(shell.run("submit", stored, "y", "--dedupe-key", "other", "-o", "json").stdout)
    assert other["crew"] == f"default/{stored}"
    assert other["run_id"] != first.strip()


def test_work_may_be_for_later(shell: Shell, stored: str) -> None:
    shell.run("submit", stored, "x", "--agent", "first", "--in", "2h", "--id", "later")
    shell.run("submit", stored, "x", "--agent", "first", "--at", "2099-01-31T18:00+01:00", "--id", "far")
    shell.run("submit", stored, "x", "--agent", "first", "--at", "2001-01-31T18:00Z", "--id", "past")

    figures = json.loads(shell.run("status", stored, "-o", "json").stdout)
    assert (figures["delayed"], figures["waiting"]) == (2, 1)
    assert 7_100_000 < figures["due_in_ms"] <= 7_200_000
    assert shell.run("result", stored, "far").stderr.endswith("far: delayed\n")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--in soon --agent a", "--in: 'soon' is not a span of time. Write 90s, 30m, 12h or 7d."),
        ("--at 18:00 --agent a", "--at: '18:00' is not a time with its zone. Write date, time and zone"),
        ("--at 2099-01-31T18:00 --agent a", "is not a time with its zone"),
        ("--in 1h --at 2099-01-31T18:00Z --agent a", "--in and --at contradict each other"),
        ("--in 1h", "can't be scheduled for a time. Add --agent NAME or --role NAME, or use a Heartbeat."),
        ("--agent a --role r", "--agent and --role contradict each other"),
        ("--durability disk", "--durability: 'disk' is no durability. Use one of: replica, fsync."),
    ],
)
def test_what_is_not_clear_about_when_and_how_safe_is_refused(shell: Shell, given: str, said: str) -> None:
    done = shell.run("submit", "c", "x", *given.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_submission_may_ask_to_be_safe(shell: Shell, stored: str) -> None:
    done = shell.run("submit", stored, "x", "--durability", "Replica", "--id", "safe")
    assert done.returncode != 0, "there is no replica"
    assert "no replica confirmed within 5 s: 'safe' may be stored" in done.stderr


def test_what_is_not_finished_is_said_so_with_exit_1(shell: Shell, stored: str) -> None:
    run_id = shell.run("submit", stored, "x").stdout.strip()

    done = shell.run("result", stored, run_id)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"not finished: {run_id} running: first waiting, second waiting, third waiting" in done.stderr

    step = shell.run("result", stored, f"{run_id}/second")
    assert (step.returncode, step.stdout) == (1, "")
    assert "second waiting" in step.stderr

    late = shell.run("result", stored, run_id, "--wait", "--timeout", "0.2")
    assert late.returncode == 1
    assert "not finished after 0.2 s" in late.stderr
    assert "has no worker now" in late.stderr


def test_status_shows_all_crews_one_crew_and_one_run(shell: Shell, stored: str) -> None:
    shell.run("submit", stored, "x", "--id", "mine")
    task = shell.run("submit", stored, "x", "--agent", "first").stdout.strip()

    everything = shell.run("status")
    line = next(line for line in everything.stdout.splitlines() if line.startswith(stored))
    assert line.split()[1:7] == ["2", "0", "0", "0", "0", "0"]
    crews = json.loads(shell.run("status", "-o", "json").stdout)
    assert next(c for c in crews if c["crew"] == f"default/{stored}")["waiting"] == 2

    assert shell.run("status", stored, task).stdout.split() == ["TASK", "STATUS", task, "waiting"]
    assert json.loads(shell.run("status", stored, "mine/second", "-o", "json").stdout)["status"] == "waiting"
    nothing = shell.run("status", stored, "nothing")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "has no run or task 'nothing'" in nothing.stderr

    one = shell.run("status", stored).stdout
    assert "mine" in one
    assert "0/3" in one
    assert task in one
    assert {
        u.get("run_id") or u["task_id"]
        for u in yaml.safe_load(shell.run("status", stored, "-o", "yaml").stdout)["unfinished"]
    } == {
        "mine",
        task,
    }

    steps = shell.run("status", stored, "mine").stdout.splitlines()
    assert steps[1].split()[:2] == ["mine", "running"]
    assert [line.split()[:2] for line in steps[4:]] == [[s, "waiting"] for s in ("first", "second", "third")]
    assert json.loads(shell.run("status", stored, "mine", "-o", "json").stdout)["steps"][1]["after"] == ["first"]

    assert shell.run("status", stored, "nope").returncode == 2
    assert shell.run("status", "nope").returncode == 2


def test_events_are_shown_counted_filtered_and_continued(shell: Shell, stored: str) -> None:
    assert len(shell.run("events", stored, "--count", "3").stdout.splitlines()) == 3
    told = shell.run("events", stored, "--count", "10").stdout.splitlines()
    assert ["mission_state_changed", "before", "running", "→", "completed"] in [line.split()[1:] for line in told]

    of_run = [
        json.loads(line) for line in shell.run("events", stored, "--run", "before", "-o", "json").stdout.splitlines()
    ]
    assert [e["event_type"] for e in of_run].count("task_completed") == 3
    later = shell.run("events", stored, "--run", "before", "-o", "json", "--after", of_run[-2]["id"]).stdout
    assert [json.loads(line) for line in later.splitlines()] == of_run[-1:]

    of_agent = list(yaml.safe_load_all(shell.run("events", stored, "--agent", "second", "-o", "yaml").stdout))
    assert {e["agent_id"] for e in of_agent} == {"second"}

    assert shell.run("events", stored, "--after", "yesterday").returncode == 2
    assert shell.run("events", "nope").returncode == 2


def test_events_of_a_run_that_is_not_there_are_not_found(shell: Shell, stored: str) -> None:
    for more in ((), ("--follow",), ("--count", "0", "--follow"), ("--after", "1-1"), ("--follow", "--after", "1-1")):
        done = shell.run("events", stored, "--run", "mistyped", *more)
        assert (done.returncode, done.stdout) == (2, ""), more
        assert "has no run 'mistyped'" in done.stderr


def test_the_feed_of_a_run_may_outlast_its_record_and_the_record_its_feed(
    shell: Shell, stored: str, redis_url: str
) -> None:
    keys = CrewKeys("default", stored)
    last = json.loads(shell.run("events", stored, "--run", "before", "-o", "json", "--count", "1").stdout)["id"]
    with redis.Redis.from_url(redis_url) as client:
        record = client.dump(keys.run("before"))
        client.delete(keys.run("before"))
        assert "before" in shell.run("events", stored, "--run", "before").stdout
        later = shell.run("events", stored, "--run", "before", "--after", last)
        assert (later.returncode, later.stdout, later.stderr) == (0, "", "")
        client.restore(keys.run("before"), 0, record)
        client.delete(keys.run_events("before"))
    empty = shell.run("events", stored, "--run", "before")
    assert (empty.returncode, empty.stdout, empty.stderr) == (0, "", "")


def test_a_follower_sees_what_comes_and_nothing_from_before(shell: Shell, stored: str) -> None:
    process = shell.start("events", stored, "--follow", "--count", "0", "-o", "json")
    worker = shell.start("worker", stored)

    def follows() -> bool:  # it may begin after the first of these submissions
        shell.run("submit", stored, "x", "--agent", "first")
        return "task_completed" in shell.read(process, "out")

    until(follows, explain=lambda: shell.read(process) + shell.read(worker))
    assert "before" not in shell.read(process, "out")


def test_a_follower_that_was_outrun_is_told_so(shell: Shell, stored: str) -> None:
    process = shell.start("events", stored, "--follow", "--after", "1-1")
    until(lambda: "events were missed" in shell.read(process, "out"), explain=lambda: shell.read(process))
    until(lambda: "mission_state_changed" in shell.read(process, "out"))


def test_a_worker_drains_at_sigterm_and_exits_with_0(shell: Shell, stored: str, worker: subprocess.Popen[str]) -> None:
    shell.hold("first")
    shell.run("submit", stored, "x", "--id", "mine")
    until(lambda: "first started" in shell.notes())
    worker.terminate()
    until(lambda: "may still finish" in shell.read(worker), explain=lambda: shell.read(worker))
    shell.let_go("first")

    assert worker.wait(180) == 0
    assert shell.notes() == ["first started", "first ended"]
    assert json.loads(shell.run("status", stored, "mine", "-o", "json").stdout)["steps"][0]["status"] == "completed"


def test_a_worker_whose_grace_is_over_hands_its_task_back(shell: Shell, stored: str) -> None:
    shell.hold("first")
    process = shell.start("worker", stored, "--grace-seconds", "0.2")
    shell.run("submit", stored, "x", "--id", "mine")
    until(lambda: "first started" in shell.notes(), explain=lambda: shell.read(process))
    process.terminate()

    assert process.wait(180) == 0
    assert json.loads(shell.run("status", stored, "mine", "-o", "json").stdout)["steps"][0]["status"] == "waiting"


def test_a_worker_where_the_crew_s_agents_are_not_is_refused(shell: Shell, stored: str) -> None:
    (shell.folder / "empty").mkdir()
    done = shell.run("worker", stored, "--folder", "empty")
    assert done.returncode == 2
    assert "ready" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert [line.partition(": agent ")[2].partition(":")[0] for line in errors] == ["'first'", "'second'", "'third'"]
    assert all("--folder DIR" in line for line in errors)


def test_a_worker_without_the_key_of_a_model_is_refused(shell: Shell, stored: str) -> None:
    shell.env = {name: value for name, value in shell.env.items() if not name.startswith("OPENAI_")}
    crew = shell.folder / "crew.yaml"
    crew.write_text(crew.read_text() + "    - {name: guide, model: 'openai:gpt-5-mini'}\n")
    assert shell.run("run", "crew.yaml", "x", "--agent", "first").returncode == 0  # which stores it
    done = shell.run("worker", stored)
    assert (done.returncode, "ready" in done.stderr) == (2, False)
    assert "spec.agents[3].model: model 'openai:gpt-5-mini': the environment variable OPENAI_API_KEY is" in done.stderr


def test_a_worker_that_has_some_of_the_agents_says_which_it_has_not(shell: Shell, stored: str) -> None:
    text = (shell.folder / "crew.yaml").read_text()
    (shell.folder / "crew.yaml").write_text(text.replace('first, class: "cli_agents:Note"', "first, class: EchoAgent"))
    assert shell.run("run", "crew.yaml", "x").returncode == 0
    (shell.folder / "empty").mkdir()
    worker = shell.start("worker", stored, "--folder", "empty")
    until(lambda: "ready: works for" in shell.read(worker), explain=lambda: shell.read(worker))
    warnings = [line for line in shell.read(worker).splitlines() if line.startswith("warning: ")]
    assert [line.partition(": agent ")[2].partition(":")[0] for line in warnings] == ["'second'", "'third'"]
    assert all(line.endswith("Its tasks wait for a worker that has it.") for line in warnings)


def test_a_worker_checks_all_its_crews_before_it_starts(shell: Shell, stored: str) -> None:
    done = shell.run("worker", stored, "no-such-crew")

    assert done.returncode == 2
    assert "no-such-crew" in done.stderr
    assert "ready" not in done.stderr
    assert shell.run("worker", stored, "--folder", "nowhere").returncode == 2


def test_the_private_store_is_found_and_shared(shell: Shell) -> None:
    shell.hold("second")
    running = shell.start("run", "crew.yaml", "x", "--id", "mine")
    until(lambda: "second started" in shell.notes(), explain=lambda: shell.read(running))

    assert "second" in shell.run("status", "notes").stdout  # attached to the one that runs
    waited = shell.start("result", "notes", "mine", "--wait")
    until(lambda: "second running" in shell.read(waited), explain=lambda: shell.read(waited))
    shell.let_go("second")
    assert waited.wait(180) == 0
    assert shell.read(waited, "out") == "third did x\n"
    assert running.wait(180) == 0

    elsewhere = shell.run("status", "notes", "--state", str(shell.folder / ".watchbill"))  # started again
    assert elsewhere.returncode == 0
    assert shell.run("result", "notes", "mine").stdout == "third did x\n"


@pytest.mark.parametrize("command", OTHERS)
def test_without_a_store_exit_3_names_everything_that_was_tried(shell: Shell, command: str) -> None:
    done = shell.run(*command.split())

    assert (done.returncode, done.stdout) == (3, "")
    for tried in ("--redis-url", "WATCHBILL_REDIS_URL", "./.watchbill/"):
        assert tried in done.stderr
    assert not (shell.folder / ".watchbill").exists()


def test_a_resume_without_a_store_makes_none(shell: Shell) -> None:
    assert shell.run("run", "crew.yaml", "--resume").returncode == 3
    assert not (shell.folder / ".watchbill").exists()


@pytest.mark.parametrize("command", ["run crew.yaml x", *OTHERS])
def test_a_store_that_refuses_connections_is_exit_3_within_seconds_and_without_the_password(
    shell: Shell, command: str
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, but not listened on
        url = f"redis://me:hunter22@127.0.0.1:{nobody.getsockname()[1]}/0"
        by_option = shell.run(*command.split(), "--redis-url", url)
        by_environment = shell.run(*command.split(), env={"WATCHBILL_REDIS_URL": url})
    assert by_option.returncode == by_environment.returncode == 3
    assert "--redis-url" in by_option.stderr
    assert "WATCHBILL_REDIS_URL" in by_environment.stderr
    assert "hunter22" not in by_option.stderr + by_environment.stderr
    assert "Traceback" not in by_option.stderr


def test_a_store_that_never_answers_is_exit_3(shell: Shell) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        done = shell.run("status", "--redis-url", f"redis://127.0.0.1:{silent.getsockname()[1]}")
    assert done.returncode == 3
    assert "no answer within 6 s" in done.stderr


async def test_a_wrong_password_is_exit_3_and_not_shown(
    shell: Shell, private_redis: Callable[[], Awaitable[Any]]
) -> None:
    import redis.asyncio

    server = await private_redis()
    async with redis.asyncio.Redis.from_url(server.url) as client:
        await client.config_set("requirepass", "right-one")
    done = shell.run("status", "--redis-url", f"unix://:wrong-one@{server.socket}")

    assert done.returncode == 3
    assert "refuses" in done.stderr
    assert "wrong-one" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_crew_that_a_newer_version_defined_is_told_as_that(shell: Shell, stored: str) -> None:
    keys = CrewKeys("default", stored)
    with redis.Redis.from_url(shell.env["WATCHBILL_REDIS_URL"], decode_responses=True) as store:
        key = keys.definition(str(store.hget(keys.meta, "def")))
        newer = json.loads(str(store.get(key))) | {"execution_mode": "swarm"}
        store.set(key, json.dumps(newer))
    refused = shell.run("submit", stored, "x")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"crew 'default/{stored}' was defined by a newer version of Watchbill" in refused.stderr
    assert "execution_mode" in refused.stderr
    assert "Upgrade this one" in refused.stderr
    shown = shell.run("status", stored)
    assert (shown.returncode, shown.stderr) == (0, "")


def test_a_url_s_mistake_is_told_as_what_it_is(shell: Shell, redis_url: str) -> None:
    base = redis_url.split("?")[0]
    far = shell.run("status", "--redis-url", f"{base}?db=99999")
    assert far.returncode == 2
    assert "has no such database. Use a lower number" in far.stderr


def test_a_time_to_wait_may_have_a_unit(shell: Shell, stored: str) -> None:
    assert shell.run("submit", stored, "x", "--id", "slow").returncode == 0
    late = shell.run("result", stored, "slow", "--wait", "--timeout", "1s")
    assert (late.returncode, "not finished after 1 s" in late.stderr) == (1, True), late.stderr
    wrong = shell.run("result", stored, "slow", "--wait", "--timeout", "soon")
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (2, False)


def test_an_empty_state_folder_is_refused_and_is_not_the_current_one(shell: Shell) -> None:
    before = sorted(shell.folder.iterdir())
    done = shell.run("run", "crew.yaml", "x", "--state", "")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--state: it is empty. Name a folder; the current one is '.'." in done.stderr
    assert sorted(shell.folder.iterdir()) == before
