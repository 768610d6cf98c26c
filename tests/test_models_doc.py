"""docs/models.md says what is so: its files are written, its shell block runs, on a model that answers by script."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pages
from test_readme import BLOCK, ROOT
from watchbill import local
from watchbill.agents import memory
from watchbill.agents.llm import LLMConfig
from watchbill.agents.memory import HistoryConfig
from watchbill.store import sessions
from watchbill.testing import CutOff, FakeModel, ToolCall

TEXT = (ROOT / "docs" / "models.md").read_text()


async def test_the_crew_of_the_page_works_as_it_says(tmp_path: Path) -> None:
    pages.write(TEXT, tmp_path)
    [command] = pages.shell(TEXT)
    code, out, err = await pages.run_beside(command, tmp_path)
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
        code, out, err = await pages.run_beside(command, tmp_path, **key)
        assert (code, out) == (0, "Four lamps are 50 euros.\n"), err
        code, out, err = await pages.run_beside(command.strip() + " -o json", tmp_path, **key)
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
        expected = ("the model's", "none") if field.default is None else (str(field.default).lower(),)
        assert listed[name] in expected


def test_the_page_names_the_bounds_of_sessions(tmp_path: Path) -> None:
    (text,) = (text for _, text in BLOCK.findall(TEXT) if text.startswith("# chat.yaml"))
    (tmp_path / "chat.yaml").write_text(text)
    (crew,) = local.load([tmp_path / "chat.yaml"]).crews
    default = HistoryConfig()
    assert LLMConfig.model_validate(crew.spec.agents[0].config).history == default
    for said in (f"`turns` ({default.turns})", f"`tokens` ({default.tokens})", f"`days` ({default.days:g})"):
        assert said in TEXT
    assert f"its last {sessions.TURNS_MAX:,} turns" in TEXT
    assert f"A turn may have {sessions.BODY_MAX // 2**20} MiB" in TEXT
    assert f"A token counts as {memory.BYTES_PER_TOKEN} bytes" in TEXT
