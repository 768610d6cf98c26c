"""Approves of findings that somebody can check, and rejects others with the reason."""

from __future__ import annotations

import re
from typing import Any

from code_review_lines import ADDED

_FINDING = re.compile(r"^(\d+): (.+)$")


class Editor:
    """Returns a verdict: `approved`, and `reasons` where it is false."""

    async def run(self, context: Any) -> dict[str, Any]:
        ((_, findings),) = context.outputs.items()  # what is reviewed
        added = dict(ADDED.findall(context.prompt))  # what was asked
        reasons = []
        for line in str(findings).splitlines():
            finding = _FINDING.match(line)
            if line == "none":
                continue
            if not finding:
                reasons.append(f"{line!r} has no number of a line")
            elif finding[1] not in added:
                reasons.append(f"line {finding[1]} was not added by this change")
            elif added[finding[1]].strip() not in line:
                reasons.append(f"the finding of line {finding[1]} doesn't quote the line")
        return {"approved": not reasons, "reasons": "; ".join(reasons)}
