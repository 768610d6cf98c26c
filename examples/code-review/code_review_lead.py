"""Delegates each file of a change to the readers, and puts what was approved into one report."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from code_review_lines import numbered

READERS = ("security", "care")


class Lead:
    """Returns the report, in Markdown."""

    async def run(self, context: Any) -> str:
        files = _files(context.inputs["change"])
        if not files:
            raise ValueError("the input `change` is no unified diff: it names no file. Make one with git diff")
        wanted = [(name, reader) for name in files for reader in READERS]
        # All at once. This run ends here, and begins anew when one of them has an approved result; what was delegated
        # before is found again, because the calls come in the same order.
        found = await asyncio.gather(
            *(context.delegate(reader, files[name], scope=f"{reader} of {name}") for name, reader in wanted),
            return_exceptions=True,
        )
        return _report(context.prompt, dict(zip(wanted, found, strict=True)))


def _files(change: str) -> dict[str, str]:
    """File → its part of the change, with the new numbers before the lines that were added."""
    parts = re.split(r"(?m)^diff --git .*\n", change)[1:]
    found = {}
    for part in parts:
        if named := re.search(r"(?m)^\+\+\+ b/(.+)$", part):
            found[named[1]] = f"{named[1]}\n\n{numbered(part)}"
    return found


def _report(question: str, found: dict[tuple[str, str], Any]) -> str:
    lines = [f"# {question}", ""]
    count = 0
    for (name, reader), result in found.items():
        if isinstance(result, Exception):  # asyncio.CancelledError, by which this run ends, is none
            lines.append(f"- **{name}** ({reader}): not reviewed: {result}")
            continue
        for finding in result.splitlines():
            if finding != "none":
                count += 1
                lines.append(f"- **{name}:{finding}** ({reader})")
    verdict = "Nothing was found." if not count else f"{count} finding{'s' if count > 1 else ''}."
    return "\n".join([*lines, "", verdict])
