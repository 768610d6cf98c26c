"""`sessions` and `submit --session`: what a person sees of what agents remember."""

from __future__ import annotations

import json

from shell import Shell

CREW = """\
apiVersion: watchbill.dev/v1alpha1
kind: Crew
metadata: {{name: {name}}}
spec:
  agents:
    - {{name: guide, model: test, config: {{history: {{turns: 5}}}}}}
    - {{name: other, model: test, config: {{history: {{days: 2}}}}}}
"""


def test_sessions_are_listed_shown_and_deleted(shell: Shell, redis_url: str, crew_name: str) -> None:
    shell.write_crew(crew_name)
    (shell.folder / "crew.yaml").write_text(CREW.format(name=crew_name))
    shell.env["WATCHBILL_REDIS_URL"] = redis_url
    assert shell.run("apply", "-f", "crew.yaml").returncode == 0
    assert shell.run("sessions", "list", crew_name).stderr == "no sessions\n"
    shell.start("worker", crew_name)
    for number in (1, 2):
        options = ("--agent", "guide", "--session", "tour", "--id", f"q{number}", "--wait")
        done = shell.run("submit", crew_name, f"question {number}", *options)
        assert done.returncode == 0, done.stderr
    within = "within  2 steps within it done, 'turn 1' the last"
    assert within in shell.run("why", crew_name, "q2").stdout.splitlines()
    lines = shell.run("sessions", "list", crew_name).stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [["SESSION", "AGENT", "TURNS"], ["tour", "guide", "2"]]
    assert "> question 1\nsuccess (no tool calls)\n" in shell.run("sessions", "show", crew_name, "tour").stdout
    turns = json.loads(shell.run("sessions", "show", crew_name, "tour", "-o", "json").stdout)
    assert [(turn["task"], turn["prompt"]) for turn in turns] == [("q1", "question 1"), ("q2", "question 2")]
    done = shell.run("submit", crew_name, "hi", "--agent", "other", "--session", "tour", "--wait")
    assert done.returncode == 0, done.stderr
    asked = shell.run("sessions", "show", crew_name, "tour")
    assert (asked.returncode, "--agent: several agents have session 'tour'" in asked.stderr) == (2, True)
    assert shell.run("sessions", "delete", crew_name, "tour", "--agent", "other").returncode == 0
    deleted = shell.run("sessions", "delete", crew_name, "tour")
    assert (deleted.returncode, deleted.stderr) == (0, "deleted session tour of guide\n")
    assert shell.run("sessions", "delete", crew_name, "tour").returncode == 2
    assert shell.run("sessions", "list", crew_name, "-o", "json").stdout.strip() == "[]"
