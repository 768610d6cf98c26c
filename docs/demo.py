"""What `make demo` shows, as a picture: the tree of the run and the beginning of its result.

Run as `python docs/demo.py [FILE]`; writes docs/demo.svg, or the file. Reads the command from the Makefile.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.markdown import Markdown
from rich.segment import Segment, Segments
from rich.text import Text

from watchbill.cli.steps import Picture
from watchbill.client import Client
from watchbill.embedded import EmbeddedStore
from watchbill.event_types import RUN_STREAM_MAX, EventType
from watchbill.names import split_step_id
from watchbill.terminal import printable

ROOT: Final = Path(__file__).parents[1]
WIDTH: Final = 110
RESULT_LINES: Final = 24

# Viewers don't load a picture's fonts from elsewhere, and nothing here should ask them to.
_FORMAT: Final = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def command() -> list[str]:
    """The arguments of `watchbill` in the Makefile's demo."""
    recipe = (ROOT / "Makefile").read_text("utf-8").split("\ndemo:")[1].split("\n\n")[0]
    return shlex.split(recipe.split("$(BIN)/watchbill ")[1].replace("\\\n", ""))


def draw(arguments: Sequence[str]) -> str:
    """Runs `watchbill` with these arguments, and returns the SVG."""
    with tempfile.TemporaryDirectory() as state:
        options = ["--state", state, "--output", "json"]
        ran = subprocess.run(
            [sys.executable, "-m", "watchbill", *arguments, *options], cwd=ROOT, check=True, capture_output=True
        )
        ended = json.loads(ran.stdout)
        picture = asyncio.run(_picture(Path(state), ended))
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(f"$ watchbill {shlex.join(arguments)}", style="bold"))
    console.print(picture)
    console.print()
    lines = console.render_lines(Markdown(printable(ended["output"])), pad=False)
    console.print(Segments([s for line in lines[:RESULT_LINES] for s in (*line, Segment.line())]), end="")
    if len(lines) > RESULT_LINES:
        console.print(Text("…", style="dim"))
    return console.export_svg(title="watchbill", code_format=_FORMAT)


async def _picture(state: Path, ended: dict[str, Any]) -> Picture:
    """How the run went, from its store."""
    crew, run_id = ended["crew"], ended["run_id"]
    async with await EmbeddedStore.open(state) as store, Client(store.url) as client:
        picture = Picture(await client.status(crew, run_id))
        for _, event in await client.events(crew, run=run_id, count=RUN_STREAM_MAX):
            step = split_step_id(event.task_id or "")
            if step and event.event_type is EventType.MISSION_EVENT:
                picture.said(step[1], event.timestamp, event.message)
    return picture


if __name__ == "__main__":
    drawn = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "docs" / "demo.svg"
    drawn.write_text(draw(command()), encoding="utf-8")
