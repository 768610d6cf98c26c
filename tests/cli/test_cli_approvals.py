"""`approve` and `reject`, and what `why` and `status` say of what waits."""

from __future__ import annotations

import json

from shell import Shell, until

REQUIRES = """
  sharedTools: [calculator]
  requiresApproval: [second, calculator]
  approvalTimeoutSeconds: 600
"""


def test_a_step_waits_for_approve_and_says_so_everywhere(shell: Shell, stored: str) -> None:
    path = shell.folder / "crew.yaml"
    agents = path.read_text().rstrip().replace('third, class: "cli_agents:Note"', 'third, class: "buyer:buy"')
    path.write_text(agents + REQUIRES)
    (shell.folder / "buyer.py").write_text("def buy(context):\n    return context.tools['calculator']('6 * 7')\n")
    assert shell.run("apply", "-f", "crew.yaml").returncode == 0
    worker = shell.start("worker", stored)
    try:
        asked_for = "look at\n\n  " + "all of it, " * 200 + "and more"
        shell.run("submit", stored, asked_for, "--id", "r1")
        until(lambda: "approval" in shell.run("status", stored, "r1").stdout)
        status = shell.run("status", stored, "r1")
        assert "r1/second waits for approval since " in status.stderr
        assert f"(watchbill why default/{stored} r1/second)" in status.stderr
        lines = shell.run("why", stored, "r1").stdout.splitlines()
        assert lines[2].strip().startswith("r1/second: it has waited for approval to begin, for ")
        work = f"default/{stored} r1/second"
        (asked,) = json.loads(shell.run("why", stored, "r1/second", "-o", "json").stdout)["approvals"]
        meant = f"{work} --mark {asked['mark']}"
        assert lines[-2:] == [f"look    watchbill approve {meant}", f"        watchbill reject {meant}"]
        shown = [line[8:] for line in lines[lines.index("asks    look at") :]]
        assert shown[: len(asked_for.splitlines())] == asked_for.splitlines()
        assert json.loads(asked["details"]).startswith(asked_for)

        wrong = shell.run("approve", stored, "r1/second", "--mark", "0123456789ab")
        assert (wrong.returncode, "has asked anew since" in wrong.stderr) == (2, True)
        done = shell.run("approve", stored, "r1/second", "--mark", asked["mark"], "--reason", "go on")
        assert (done.returncode, done.stderr) == (0, "")
        until(lambda: "r1/third waits for approval" in shell.run("status", stored, "r1").stderr)
        (asked,) = json.loads(shell.run("why", stored, "r1/third", "-o", "json").stdout)["approvals"]
        assert json.loads(asked["details"]) == {"": ["6 * 7"]}
        lines = shell.run("why", stored, "r1/third").stdout.splitlines()
        command = f"watchbill approve default/{stored} r1/third --what '{asked['what']}' --mark {asked['mark']}"
        assert f"{asked['what']}: {asked['details']}" in "\n".join(lines)
        assert lines[-2].split("  ")[-1].strip() == command
        other = shell.run("approve", stored, "r1/third", "--what", "call nothing")
        assert (other.returncode, "waits for no approval of 'call nothing'" in other.stderr) == (2, True)
        assert shell.run("approve", stored, "r1/third", "--what", asked["what"]).returncode == 0
        assert shell.run("result", stored, "r1", "--wait").returncode == 0
        again = shell.run("approve", stored, "r1/second", "-o", "json")
        assert json.loads(again.stdout)["status"] == "completed"
        assert "r1/second was approved before: nothing was changed" in again.stderr
        refused = shell.run("reject", stored, "r1/second")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "can't be rejected: it is completed" in refused.stderr
        data = json.loads(shell.run("why", stored, "r1/second", "-o", "json").stdout)
        assert [(one["state"], one["reason"]) for one in data["approvals"]] == [("approved", "go on")]

        shell.run("submit", stored, "look", "--id", "r2")
        until(lambda: "approval" in shell.run("status", stored, "r2").stdout)
        assert shell.run("reject", stored, "r2/second", "--reason", "not today").returncode == 0
        ended = shell.run("result", stored, "r2", "--wait")
        assert ended.returncode == 1
        assert "error: second: ApprovalRejected: rejected: not today" in ended.stderr
    finally:
        worker.terminate()
        worker.wait()
