"""The picture in README shows what the demo shows now: drawn anew, and compared by its visible text.

Times and ids differ from run to run and are masked. Run `python docs/demo.py` when the demo has changed.
"""

from __future__ import annotations

import html
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = re.compile(r'<text[^>]* x="([\d.]+)"[^>]* y="([\d.]+)"[^>]*clip-path[^>]*>([^<]*)</text>')


def shape(svg: str) -> list[str]:
    """The lines that a person sees, down to the result's headline."""
    rows: dict[float, list[tuple[float, str]]] = defaultdict(list)
    for x, y, text in TEXT.findall(svg):
        rows[float(y)].append((float(x), html.unescape(text).replace("\xa0", " ")))
    lines = [" ".join(text.strip() for _, text in sorted(row)) for _, row in sorted(rows.items())]
    lines = [re.sub(r"\s+", " ", line).strip() for line in lines if line.strip()]
    lines = [re.sub(r"\b(\d+\.\ds|[0-9a-f]{32})\b", "#", line) for line in lines]
    steps = max(i for i, line in enumerate(lines) if "└──" in line)
    return lines[: steps + 2]


def test_the_committed_picture_is_what_the_demo_draws(tmp_path: Path) -> None:
    drawn = tmp_path / "demo.svg"
    subprocess.run([sys.executable, ROOT / "docs" / "demo.py", drawn], check=True, capture_output=True, timeout=180)

    lines = shape(drawn.read_text())
    assert lines[0].startswith("$ watchbill run examples/log-triage/crew.yaml")
    assert [line for line in lines if line.startswith(("├── ✔", "└── ✔"))] != []
    assert lines == shape((ROOT / "docs" / "demo.svg").read_text())
    assert "@font-face" not in drawn.read_text()
