"""What docs/crews.md says of approvals is so: its files are written, its shell block runs, as a reader would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import forgetting
import pages
from test_readme import BLOCK, ROOT
from waiting import until
from watchbill import testing
from watchbill.client import Client
from watchbill.errors import Conflict
from watchbill.local import LocalCrews, load
from watchbill.tasks import Approval, TaskState
from watchbill.testing import Answer, FakeModel, Request, ToolCall

TEXT = (ROOT / "docs" / "crews.md").read_text()
SECTION = TEXT.partition("\n## Approval\n")[2].partition("\n## ")[0]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with forgetting.modules_below(tmp_path):
        yield tmp_path


def test_the_letter_of_the_page_is_sent_when_both_approvals_are_given(tmp_path: Path) -> None:
    *_, last = pages.run(SECTION, tmp_path)
    assert all(kind == "sh" or re.match(r"# \S+\.(?:yaml|py)\n", text) for kind, text in BLOCK.findall(SECTION))
    assert last.stdout.splitlines() == [
        "waits for approval to begin: We promise a refund.",
        "waits for approval: send a letter that promises a refund",
        "completed {'refund': 'it was our mistake'}",
    ]


async def test_the_desk_of_the_page_pays_back_what_was_approved_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: Request) -> Answer:
        refunds = [ToolCall("refund", {"customer": who, "euros": 12.5}) for who in ("Ada", "Eve")]
        return " / ".join(request.tool_results) or [ToolCall("price", {"item": "lamp"}), *refunds]

    async def waits() -> list[Approval]:
        known = (await client.approvals("desk", "t")).get("t", [])
        return known if await client.state("desk", "t") is TaskState.APPROVAL else []

    pages.write(SECTION, folder)
    async with FakeModel(answer) as model, testing.store() as url, Client(url) as client:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody")
        monkeypatch.setenv("OPENAI_BASE_URL", model.base_url)
        async with LocalCrews(url, load([folder / "desk.yaml"])):
            await client.submit("desk", "I want my money back.", agent="clerk", id="t")
            ada, eve = await until(waits)
            assert [json.loads(one.details)["customer"] for one in (ada, eve)] == ["Ada", "Eve"]
            assert ada.what.startswith("call refund #")
            with pytest.raises(Conflict, match=r"several approvals\. Say which one is meant: 'call refund #"):
                await client.approve("desk", "t")
            assert await client.reject("desk", "t", what=eve.what, reason="she bought nothing")
            assert await client.approve("desk", "t", what=ada.what)
            result = await client.wait("desk", "t", timeout=180)
    refused = f"This call was not made: rejected: she bought nothing (what it asked for: {eve.what})"
    assert result.output == f"12.5 / paid Ada 12.5 euros / {refused}"
    assert [len(request.tool_results) for request in model.requests] == [0, 3]
