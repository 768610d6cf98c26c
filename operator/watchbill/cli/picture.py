"""The picture of a run in README: its tree and the beginning of its result, as SVG. Drawn by the run itself."""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.markdown import Markdown
from rich.segment import Segment, Segments
from rich.text import Text

from watchbill.cli import output
from watchbill.cli.steps import Picture
from watchbill.plan.prompts import as_text
from watchbill.tasks import RunStatus
from watchbill.terminal import printable

if TYPE_CHECKING:
    from watchbill.client import Result

WIDTH: Final = 110
RESULT_LINES: Final = 24

# Viewers don't load a picture's fonts from elsewhere, and nothing here should ask them to.
_FORMAT: Final = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def write(path: Path, status: RunStatus, messages: dict[str, str], ended: Result) -> None:
    """Draws how a run ended into a file."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    arguments = [part for i, part in enumerate(sys.argv) if i and "--svg" not in sys.argv[i - 1 : i + 1]]
    arguments = [part for part in arguments if part != "--ephemeral"]
    console.print(Text(f"$ watchbill {shlex.join(arguments)}", style="bold"))
    console.print(Picture(status, messages))
    console.print()
    body = printable(as_text(ended.output))
    lines = console.render_lines(Markdown(body) if output.is_markdown(ended.output) else Text(body), pad=False)
    console.print(Segments([s for line in lines[:RESULT_LINES] for s in (*line, Segment.line())]), end="")
    if len(lines) > RESULT_LINES:
        console.print(Text("…", style="dim"))
    path.write_text(console.export_svg(title="watchbill", code_format=_FORMAT), encoding="utf-8")
