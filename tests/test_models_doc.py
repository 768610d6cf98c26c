"""docs/models.md says what is so: its files are written, its shell block runs, on a model that answers by script."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from test_readme import BLOCK, ROOT
from watchbill.agents.llm import LLMConfig
from watchbill.testing import CutOff, FakeModel, ToolCall

TEXT = (ROOT / "docs" / "models.md").read_text()


async def test_the_crew_of_the_page_works_as_it_says(tmp_path: Path) -> None:
    for _, text in BLOCK.findall(TEXT):
        if named := re.match(r"# (\S+\.(?:yaml|py))\n", text):
            (tmp_path / named[1]).write_text(text)
    [command] = [text for kind, text in BLOCK.findall(TEXT) if kind == "sh"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WATCHBILL_", "OPENAI_"))}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    async def run(line: str, **more: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euc", line), cwd=tmp_path, env=environment | more, stdout=-1, stderr=-1
        )
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    code, out, err = await run(command)
    assert (code, out) == (2, "")
    assert "OPENAI_API_KEY is not set" in err

    calls = [ToolCall("price", {"item": "lamps"}), ToolCall("price", {"item": "lamp"})]
    answers: list[Any] = [
        *calls,
        "{lamp: 12.5, 4: 50}",
        "Four lamps are 50 euros.",
        "{lamp: 12.5}",
        CutOff("Four lamps"),
    ]
    async with FakeModel(answers) as model:
        key = {"OPENAI_API_KEY": "sk-of-nobody", "OPENAI_BASE_URL": model.base_url}
        code, out, err = await run(command, **key)
        assert (code, out) == (0, "Four lamps are 50 euros.\n"), err
        code, out, err = await run(command.strip() + " -o json", **key)
    assert code == 1
    assert "raise max_tokens" in json.loads(out)["error"] + err
    first, *_, writer, _, _ = model.requests
    assert first.tools == ["price", "calculator"]
    assert "in euros" in json.dumps(first.body["tools"])
    assert first.prompt == "Find the price of one lamp, and of 4. Answer as {item: price}."
    assert "there is no 'lamps'; there are lamp, chair" in model.requests[1].tool_results[0]
    assert writer.prompt == "Write one sentence to a customer about this: {lamp: 12.5, 4: 50}"


def test_the_page_names_all_of_config() -> None:
    table = TEXT.split("## Config\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    listed = {name: default.strip().strip("`") for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    assert listed.keys() == LLMConfig.model_fields.keys()
    for name, field in LLMConfig.model_fields.items():
        assert (
            listed[name] == str(field.default) if field.default is not None else listed[name] in ("the model's", "none")
        )
