"""Keys of models' providers in files, as Kubernetes mounts a Secret, and as it puts another one in their place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from asking import ask, crew_of, failure

from watchbill import testing
from watchbill.agents import AgentLoader, aclose_clients, providers
from watchbill.api.workers import Workers
from watchbill.errors import UserActionRequired
from watchbill.redaction import Redactor
from watchbill.testing import Answer, ErrorAnswer, FakeModel, Request, ToolCall

OLD, NEW = "sk-of-a-file-0123456789", "sk-rotated-9876543210"
ELSEWHERE = "models.example.net"


@pytest.fixture(autouse=True)
async def _close() -> AsyncIterator[None]:
    yield
    await aclose_clients()


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of OpenAI's and Anthropic's key."""
    path = tmp_path / "key"
    path.write_text(f"{OLD}\n")
    for variable in ("OPENAI_API_KEY_FILE", "ANTHROPIC_API_KEY_FILE"):
        monkeypatch.setenv(variable, str(path))
    return path


@pytest.mark.parametrize("prefix", ["openai-chat", "openai-responses", "anthropic"])
async def test_a_key_that_is_rotated_is_sent_with_the_next_request_of_the_same_conversation(
    mounted: Path, prefix: str
) -> None:
    def answer(request: Request) -> Answer:
        return "done" if request.tool_results else ToolCall("rotate", {})

    def rotate() -> str:
        mounted.unlink()
        mounted.write_text(f"{NEW}\r\n")
        return "rotated"

    async with FakeModel(answer) as model:
        url = model.anthropic_url if prefix == "anthropic" else model.base_url
        context = testing.context(tools={"rotate": rotate})
        assert await ask(context=context, model=f"{prefix}:any", base_url=url) == "done"
        mounted.write_text(OLD)
        assert await ask(context=testing.context(tools={"rotate": rotate}), model=f"{prefix}:any", base_url=url)
    sent = [request.headers["Authorization"].removeprefix("Bearer ") for request in model.requests]
    assert sent == [OLD, NEW, OLD, NEW]


async def test_tasks_share_a_model_until_its_key_is_rotated(mounted: Path) -> None:
    first = providers.build("openai-chat:any", None)
    assert providers.build("openai-chat:any", None) is first
    assert providers.build("openai-chat:other", None) is not first
    mounted.write_text(NEW)
    second = providers.build("openai-chat:any", None)
    assert second is not first
    assert providers.build("openai-chat:any", None) is second


async def test_what_cannot_be_a_key_is_told_with_its_variable_and_file_before_anything_is_asked(
    mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = crew_of("openai:gpt-5-mini")
    assert AgentLoader().ready(crew) == []
    where = f"OPENAI_API_KEY_FILE: the file {str(mounted)!r}"
    async with FakeModel(lambda _: "never") as model:
        for content, reason in (
            (b" \n", "is empty"),
            (b"one\ntwo", "holds more"),
            (b"\xff", "can't be read"),
            (None, ""),
        ):
            mounted.unlink() if content is None else mounted.write_bytes(content)
            [problem] = AgentLoader().ready(crew)
            assert problem.reason.startswith(f"model 'openai:gpt-5-mini': {where} {reason}")
            error = await failure(base_url=model.base_url)
            assert isinstance(error, UserActionRequired)
            assert str(error).startswith(f"{where} {reason}")
        assert problem.reason.endswith("can't be read: No such file or directory")
        monkeypatch.setenv("OPENAI_API_KEY", OLD)
        assert "OPENAI_API_KEY and OPENAI_API_KEY_FILE are both set" in str(await failure(base_url=model.base_url))
    assert model.requests == []


async def test_a_key_of_a_file_is_neither_told_nor_sent_elsewhere(
    mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeModel(lambda request: ErrorAnswer(400, f"you sent {dict(request.headers)}")) as model:
        error = await failure(base_url=model.base_url)
        assert OLD in model.requests[0].headers["Authorization"]
        assert "[redacted OPENAI_API_KEY]" in str(error)
        monkeypatch.setenv("http_proxy", model.base_url.removesuffix("/v1"))
        await failure(base_url=f"http://{ELSEWHERE}/v1")
    assert OLD not in str(model.requests[1].headers)
    assert OLD not in str(error)


@pytest.mark.pure
def test_what_is_learned_is_taken_out_for_good_beside_what_the_environment_holds() -> None:
    redactor = Redactor({"DB_PASSWORD": "hunter-22"})
    assert redactor(f"{OLD} hunter-22") == f"{OLD} [redacted DB_PASSWORD]"
    redactor.learn("A_KEY", OLD)
    redactor.learn("A_KEY", NEW)
    assert redactor(f"{OLD} {NEW} hunter-22") == "[redacted A_KEY] [redacted A_KEY] [redacted DB_PASSWORD]"


@pytest.mark.pure
def test_the_workers_of_the_page_are_those_of_a_crew() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    block = page.partition("# A part of a Crew's spec")[2].partition("\n")[2].partition("```")[0]
    workers = Workers.model_validate(yaml.safe_load(block)["workers"])
    (container,) = workers.model_dump(by_alias=True)["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "OPENAI_API_KEY_FILE", "value": "/run/keys/openai"}]
