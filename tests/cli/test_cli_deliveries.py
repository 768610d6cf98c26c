"""`deliveries`, `submit --deliver` and `dead --deliveries`: what a person sees of results that are sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from shell import Shell, until

CREW = """\
apiVersion: watchbill.dev/v1alpha1
kind: Crew
metadata: {{name: {name}}}
spec:
  agents:
    - {{name: first, class: "cli_agents:Note"}}
  delivery:
    - {{name: ops, webhook: {{url: "http://127.0.0.1:{port}/ops"}}}}
    - {{name: gone, webhook: {{url: "http://127.0.0.1:{port}/gone"}}}}
"""


class Receiver(ThreadingHTTPServer):
    """Takes all that is sent to /ops, and wants nothing at /gone."""

    daemon_threads = True

    def __init__(self) -> None:
        self.got: list[tuple[str, str]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.got.append((self.path, body["task_id"]))
        self.send_response(410 if self.path == "/gone" else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def delivered(shell: Shell, redis_url: str, crew_name: str, receiver: Receiver) -> str:
    """A crew whose run r1 was sent to both destinations, by `watchbill run`."""
    shell.write_crew(crew_name)
    (shell.folder / "crew.yaml").write_text(CREW.format(name=crew_name, port=receiver.port))
    shell.env |= {"WATCHBILL_REDIS_URL": redis_url, "WATCHBILL_DELIVERY_ALLOW": "loopback"}
    done = shell.run("run", "crew.yaml", "hello", "--id", "r1")
    assert done.returncode == 0, done.stderr
    said = f"note: the result can't be delivered to gone (watchbill deliveries list default/{crew_name} says why)"
    assert [line for line in done.stderr.splitlines() if line.startswith("note:")] == [said]
    assert set(receiver.got) == {("/gone", "r1"), ("/ops", "r1")}  # one that answers late is sent it again
    return crew_name


def test_deliveries_are_listed_and_shown_and_dead_ones_are_letters(shell: Shell, delivered: str) -> None:
    lines = shell.run("deliveries", "list", delivered).stdout.splitlines()
    assert lines[0].split() == ["DELIVERY", "DESTINATION", "STATE", "ATTEMPTS", "WHEN", "LAST"]
    rows = {line.split()[1]: line.split() for line in lines[1:]}
    assert rows["ops"][2:4] == ["completed", "1"]
    assert rows["ops"][-1] == "204"
    assert rows["gone"][2:4] == ["dead", "1"]
    assert "410" in " ".join(rows["gone"])
    found = json.loads(shell.run("deliveries", "list", delivered, "-o", "json").stdout)
    assert {(one["task_id"], one["destination"], one["state"]) for one in found} == {
        ("r1", "ops", "completed"),
        ("r1", "gone", "dead"),
    }

    wanted = rows["gone"][0]
    shown = shell.run("deliveries", "show", delivered, wanted).stdout
    assert "attempt 1 at " in shown
    assert '"output": "first did hello"' in shown
    whole = json.loads(shell.run("deliveries", "show", delivered, wanted, "-o", "json").stdout)
    assert [one["status"] for one in whole["log"]] == [410]
    assert shell.run("deliveries", "show", delivered, "nothing").returncode == 2

    (letter,) = json.loads(shell.run("dead", "list", delivered, "--deliveries", "-o", "json").stdout)
    assert (letter["task_id"], letter["agent"]) == (wanted, "to:gone")
    assert shell.run("dead", "list", delivered).stderr == "no dead letters\n"
    assert "1 dead" in shell.run("status", delivered).stderr
    top = shell.run("top", delivered, "--once", "-i", "0.2").stdout.splitlines()
    (title,) = [number for number, line in enumerate(top) if line.startswith("DELIVERIES")]
    assert top[title + 1].split()[1:5] == ["0", "0", "0", "1"]
    told = shell.run("events", delivered, "--deliveries").stdout
    assert "task_completed" in told
    assert "to:ops" in told
    assert f"delivery {wanted} is dead: " in shell.run("events", delivered).stdout
    assert shell.run("events", delivered, "--deliveries", "--run", "r1").returncode == 2
    replayed = shell.run("dead", "replay", delivered, wanted, "--deliveries")
    assert (replayed.returncode, replayed.stdout) == (0, f"{wanted}\n")
    assert shell.run("dead", "list", delivered, "--deliveries").stderr == "no dead letters\n"


def test_a_run_tells_of_its_own_result_only(shell: Shell, delivered: str) -> None:
    """Those of earlier runs are not its business, however many of them wait."""
    text = (shell.folder / "crew.yaml").read_text()
    (shell.folder / "crew.yaml").write_text(text.replace("/ops", "/again").replace("/gone", "/again"))
    shell.run("dead", "replay", delivered, "--deliveries", "--reason", "410")
    done = shell.run("run", "crew.yaml", "hello", "--id", "r2")
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith("note:")]


def test_a_submission_names_its_destinations(shell: Shell, delivered: str, receiver: Receiver) -> None:
    refused = shell.run("submit", delivered, "hi", "--agent", "first", "--deliver", "opps")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "has no destination 'opps'. Use one of: gone, ops." in refused.stderr
    shell.start("worker", delivered)
    done = shell.run("submit", delivered, "hi", "--agent", "first", "--id", "t1", "--deliver", "ops", "--wait")
    assert done.returncode == 0, done.stderr
    until(lambda: ("/ops", "t1") in receiver.got)
    assert ("/gone", "t1") not in receiver.got
