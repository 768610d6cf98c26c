"""docs/tools.md says what is so: its files are written, its shell block runs, on a shop and a model on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from aiohttp import web

import pages
from test_readme import ROOT
from waiting import until
from watchbill.agents import outgoing
from watchbill.api.tool_sources import HttpTool, ToolServer
from watchbill.testing import Answer, FakeModel, ToolCall

TEXT = (ROOT / "docs" / "tools.md").read_text()


async def test_the_crew_of_the_page_works_as_it_says(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    async def price(request: web.Request) -> web.Response:
        asked.append((request.raw_path, request.headers["Authorization"]))
        return web.json_response({"euros": 12.5})

    app = web.Application()
    app.router.add_get("/items/{item}", price)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    shop = f"http://127.0.0.1:{runner.addresses[0][1]}"
    page = TEXT.replace("https://shop.example.com", shop)
    pages.write(page, tmp_path)
    [command] = pages.shell(page)
    answers: list[Answer] = [
        [ToolCall("price", {"item": "lamp", "currency": "EUR"}), ToolCall("stock_count", {"item": "lamp"})],
        "12.5 euros, and 7.",
    ]
    async with FakeModel(answers) as model:
        given = {
            "OPENAI_API_KEY": "sk-of-nobody",
            "OPENAI_BASE_URL": model.base_url,
            "SHOP_TOKEN": "t-1",
            "WATCHBILL_TOOLS_ALLOW": "loopback",
        }
        code, out, err = await pages.run_beside(command, tmp_path, **given)
        assert (code, out) == (0, "12.5 euros, and 7.\n"), err
    await runner.cleanup()
    if sys.platform == "linux":

        def left() -> list[Path]:
            return [link for link in Path("/proc").glob("[0-9]*/cwd") if os.path.realpath(link) == str(tmp_path)]

        await until(lambda: not left(), what="the end of its servers")
    assert asked == [("/items/lamp?currency=EUR", "Bearer t-1")]
    assert model.requests[0].tools == ["price", "stock_count"]
    assert ["12.5" in model.requests[1].tool_results[0], "7" in model.requests[1].tool_results[1]] == [True, True]


def test_the_page_names_the_bounds() -> None:
    from watchbill.agents import mcp_client  # with the library, which whoever only collects the tests does not need

    assert f"may have {outgoing.ANSWER_MAX_BYTES // 1024} KiB" in TEXT
    assert f"more than {mcp_client.RESULT_MAX // 1024} Ki characters" in TEXT
    for kind in (HttpTool, ToolServer):
        assert f"`timeoutSeconds` ({kind.model_fields['timeout_seconds'].default})" in TEXT
