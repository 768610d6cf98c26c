"""The examples that need a model, against a server that speaks OpenAI's protocol: the commands of their pages as they
are written, and what a failure makes of a run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import scripted

import pages
from test_readme import ROOT
from watchbill.agents import aclose_clients
from watchbill.local import run_file
from watchbill.tasks import RunResult, RunState
from watchbill.testing import Answer, ErrorAnswer, FakeModel, Request

EXAMPLES = ROOT / "examples"
TEXTS = sorted((EXAMPLES / "contracts" / "texts").glob("*.txt"))
CONTRACTS = json.dumps([{"name": path.name, "text": path.read_text()} for path in TEXTS])

Playing = Callable[[Callable[[Request], Answer]], Awaitable[FakeModel]]


@pytest.fixture
async def playing(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Playing]:
    """`await playing(answer)` starts a model that all agents of this process ask."""
    started: list[FakeModel] = []

    async def start(answer: Callable[[Request], Answer]) -> FakeModel:
        model = FakeModel(answer)
        started.append(await model.__aenter__())
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody")
        monkeypatch.setenv("OPENAI_BASE_URL", model.base_url)
        return model

    yield start
    await aclose_clients()
    for model in started:
        await model.__aexit__(None, None, None)


def page(example: str) -> str:
    """The first shell block of an example's page."""
    return pages.shell((EXAMPLES / example / "README.md").read_text())[0]


async def ran(example: str, prompt: str, **inputs: str) -> RunResult:
    result = await run_file(EXAMPLES / example / "crew.yaml", prompt, inputs=inputs, timeout=180)
    assert isinstance(result, RunResult)
    return result


# ---------------------------------------------------------------- research-and-write


async def test_research_goes_on_until_the_editor_is_content(playing: Playing) -> None:
    await playing(scripted.answer)
    *_, file, prompt = shlex.split(page("research-and-write").splitlines()[-1])
    assert file == "examples/research-and-write/crew.yaml"
    run = await ran("research-and-write", prompt)
    assert run.status is RunState.COMPLETED
    assert run.output.splitlines() == [
        "I found it [Jobs that run at night].",
        "I found it [Incident 2026-02-11: the invoices ran twice].",
        "I found it [What the cron host costs].",  # of the second round, in which nothing else was looked up
        "",
        "---",
        "",
        "Approved by the editor: true",
    ]


async def test_a_question_that_is_not_answered_is_told_to_the_writer(playing: Playing) -> None:
    def refuses(request: Request) -> Answer:
        is_research = request.instructions.startswith("You look up one question")
        return ErrorAnswer(400, "no") if is_research and "invoices" in request.prompt else scripted.answer(request)

    await playing(refuses)
    run = await ran("research-and-write", "Cron or a queue?")
    assert run.status is RunState.PARTIAL
    assert run.output.splitlines()[:2] == ["I found it [Jobs that run at night].", "Not known: researcher"]
    assert run.steps["researcher@1@2"].error


async def test_an_editor_that_is_never_content_costs_three_rounds(playing: Playing) -> None:
    def strict(request: Request) -> Answer:
        is_editor = request.instructions.startswith("You edit")
        return scripted.final(approved=False, remarks="Too long.") if is_editor else scripted.answer(request)

    model = await playing(strict)
    run = await ran("research-and-write", "Cron or a queue?")
    assert run.status is RunState.COMPLETED
    assert run.output.endswith("Too long.\nApproved by the editor: false")
    assert [name for name in run.steps if name.startswith("writer")] == ["writer@1", "writer@2", "writer@3"]
    assert run.usage.requests == len(model.requests) == 3 * 3 + 2 * 4  # planner, writer, editor; two for each question


# ---------------------------------------------------------------- contracts


async def test_each_contract_is_read_twice_and_all_are_summed_up(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES)
    script = page("contracts").replace("KEY=…", "KEY=sk-of-nobody")
    async with FakeModel(scripted.answer) as model:
        code, out, err = await pages.run_beside(script, tmp_path, OPENAI_BASE_URL=model.base_url)
    assert code == 0, err
    assert out == (
        "Not read: []. Duties: cleaning.txt, office.txt, software.txt, supplier.txt. "
        "Risks: cleaning.txt, office.txt, software.txt.\n"
    )


async def test_a_contract_that_cannot_be_read_stops_no_other(playing: Playing) -> None:
    def refuses(request: Request) -> Answer:
        too_long = "The contract office.txt:" in request.prompt
        return ErrorAnswer(400, "context_length_exceeded") if too_long else scripted.answer(request)

    await playing(refuses)
    run = await ran("contracts", "What must we do?", contracts=CONTRACTS)
    assert run.status is RunState.PARTIAL
    assert run.output == (
        "Not read: [2]. Duties: cleaning.txt, software.txt, supplier.txt. Risks: cleaning.txt, software.txt."
    )
    assert [one.get("error", {}).get("step") for one in run.steps["risks"].output] == [None, "risks@2", None, None]
    assert "context_length_exceeded" in (run.steps["duties@2"].error or "")


# ---------------------------------------------------------------- support-desk


async def test_a_letter_is_answered_in_two_turns_and_reviewed(playing: Playing) -> None:
    model = await playing(scripted.answer)
    *_, file, prompt = shlex.split(page("support-desk").splitlines()[-1])
    assert file == "examples/support-desk/crew.yaml"
    run = await ran("support-desk", prompt)
    assert run.status is RunState.COMPLETED
    assert run.output.splitlines() == [
        "Dear customer,",
        "A-1002: chair, cushion, sent not yet, promised for 2026-03-09.",
        "A-1003: table, sent 2026-03-05, promised for 2026-03-10.",
    ]
    assert run.steps["desk:3:review"].output["reasons"] == "No order says tomorrow."
    assert run.steps["desk:3:review2"].output == {"approved": True}
    assert (
        run.usage.requests == len(model.requests) == 3 + 2 * 3 + 2 * 2
    )  # desk; each order and its review; each letter


# ---------------------------------------------------------------- those that run without a model, with one


async def test_the_review_and_the_triage_are_written_by_a_model_if_one_is_named(playing: Playing) -> None:
    model = await playing(scripted.answer)

    async def with_model(example: str, **inputs: str) -> Any:
        path = EXAMPLES / example / "crew.yaml"
        return await run_file(path, "Is all well?", inputs=inputs, model="openai:gpt-5-mini", timeout=180)

    change = (EXAMPLES / "code-review" / "change.diff").read_text()
    review = await with_model("code-review", change=change)
    assert review.status is RunState.COMPLETED
    found = re.findall(r"^- \*\*(\S+): it is", review.output, re.MULTILINE)
    assert found == ["shop/orders.py:16", "shop/orders.py:16", "shop/mail.py:3", "shop/mail.py:3"]
    # The first finding about mail.py named no line: the editor sent it back, and the model mended it.
    assert review.steps["lead:3:review"].output["reasons"] == "'There is a password.' has no number of a line"
    assert review.steps["lead:3:review2"].output["approved"]

    triage = await with_model("log-triage", log=(EXAMPLES / "log-triage" / "app.log").read_text())
    assert triage.output == "Hypothesis: out of memory, since 2026-11-21 01:33:04."
    assert max(len(request.prompt) for request in model.requests) < 30_000


@pytest.mark.parametrize(
    ("example", "inputs"), [("research-and-write", ()), ("contracts", (("contracts", CONTRACTS),))]
)
async def test_without_a_key_all_can_be_tried_on_the_model_test(
    example: str, inputs: Sequence[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    path = EXAMPLES / example / "crew.yaml"
    run = await run_file(path, "Does it fit together?", inputs=dict(inputs), model="test", timeout=180)
    assert isinstance(run, RunResult)
    assert run.status is RunState.COMPLETED
