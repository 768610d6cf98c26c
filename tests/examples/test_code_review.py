"""The code-review example as its README runs it: what it finds, and that its findings were reviewed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pages

EXAMPLE = Path(__file__).parents[2] / "examples" / "code-review"

REPORT = """\
# Is this safe to merge?

- **shop/orders.py:13: SQL made of text: pass values as parameters [`return db.one(f"SELECT * FROM orders WHERE id = {order_id}")`]** (security)
- **shop/orders.py:16: one object for all calls: use None, and make it inside [`def price(items=[]):`]** (care)
- **shop/orders.py:19: hides every error, also Ctrl-C: name what you expect [`except:`]** (care)
- **shop/mail.py:3: a secret in the code: read it from the environment [`PASSWORD = "hunter22"`]** (security)

4 findings."""  # noqa: E501


def test_it_reports_what_its_editor_approved_of(tmp_path: Path) -> None:
    command = ["watchbill", "run", str(EXAMPLE / "crew.yaml"), "Is this safe to merge?"]
    command += ["--input", f"change=@{EXAMPLE / 'change.diff'}", "--output", "json", "-q"]
    done = subprocess.run(command, cwd=tmp_path, env=pages.environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["output"] == REPORT
    steps = result["steps"]
    assert [steps[f"lead:{item}:review"]["output"]["approved"] for item in range(1, 7)] == [
        *(False, False),  # orders.py: the findings quote no line, so they are worked on once more
        *(False, True),  # mail.py: there is nothing to say of care
        *(True, True),
    ]
    assert steps["lead:1:review"]["output"]["reasons"] == "the finding of line 13 doesn't quote the line"
    assert steps["lead:1:review2"]["output"] == {"approved": True, "reasons": ""}
