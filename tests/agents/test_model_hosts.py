"""Which servers of models get a key of the environment, seen from servers on loopback and, by a proxy, elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from watchbill import testing
from watchbill.agents import AgentLoader, aclose_clients, model_hosts
from watchbill.errors import UserActionRequired
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.testing import ErrorAnswer, FakeModel

KEY = "sk-very-secret-0123456789"
ELSEWHERE = "models.example.net"


@pytest.fixture(autouse=True)
async def _key(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield
    await aclose_clients()


def by_proxy(model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """All hosts but loopback are this server, as far as HTTP clients can tell."""
    monkeypatch.setenv("http_proxy", model.base_url.removesuffix("/v1"))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


async def ask(base_url: str | None, model: str = "openai:any") -> str:
    crew = CrewDefinition(name="crew", agents=[AgentDefinition(agent_id="guide", model=model, base_url=base_url)])
    loader = AgentLoader()
    assert loader.check(crew) == []
    answer: str = await loader.load(crew, crew.agents[0]).run(testing.context(prompt="hi"))
    return answer


def sent(model: FakeModel) -> bool:
    [request] = model.requests
    return KEY in str(request.headers)


@pytest.mark.pure
@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("my.localhost", True),
        ("api.openai.com", True),
        ("API.OpenAI.com.", True),
        ("gateway.example.net", True),
        ("one.example.org", True),
        ("a.b.example.com", True),
        ("example.com", False),
        ("notexample.com", False),
        ("two.one.example.org", False),
        ("one.example.org.evil.net", False),
        ("localhost.evil.net", False),
        ("evil-api.openai.com", False),
        ("10.0.0.1", False),
        ("128.0.0.1", False),
        ("2130706433", False),
        ("", False),
    ],
)
def test_a_host_may_have_a_key_if_it_is_named_or_is_this_machine(host: str, allowed: bool) -> None:
    environment = {
        "WATCHBILL_MODEL_HOSTS": " one.example.org, *.Example.com,",
        "OPENAI_BASE_URL": "https://gateway.example.net:8443/v1",
        "OTHER_URL": "https://128.0.0.1",
        "BAD_BASE_URL": "http://[",
    }
    assert model_hosts.may_have_key(host, lambda: "api.openai.com", environment) is allowed


async def test_a_server_elsewhere_gets_no_key_and_why_is_told_when_it_wants_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with FakeModel(["ok"]) as model:
        by_proxy(model, monkeypatch)
        assert await ask(f"http://{ELSEWHERE}/v1") == "ok"
        assert not sent(model)
    await aclose_clients()
    async with FakeModel([ErrorAnswer(401)]) as model:
        by_proxy(model, monkeypatch)
        with pytest.raises(UserActionRequired) as raised:
            await ask(f"http://{ELSEWHERE}/v1")
    assert f"'{ELSEWHERE}' is not a host that may have one" in str(raised.value)
    assert f"WATCHBILL_MODEL_HOSTS={ELSEWHERE}" in str(raised.value)


@pytest.mark.parametrize("variable", ["WATCHBILL_MODEL_HOSTS", "OPENAI_BASE_URL"])
async def test_a_server_elsewhere_that_the_environment_names_gets_the_key(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, ELSEWHERE if variable.startswith("WATCHBILL") else f"http://{ELSEWHERE}/v1")
    async with FakeModel(["ok"]) as model:
        by_proxy(model, monkeypatch)
        await ask(f"http://{ELSEWHERE}/v1")
    assert sent(model)


async def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    redirected: list[str] = []

    async def redirect(request: web.Request) -> web.Response:
        redirected.append(request.headers["Authorization"])
        raise web.HTTPTemporaryRedirect(f"http://{ELSEWHERE}{request.path}")

    app = web.Application()
    app.router.add_post("/{path:.*}", redirect)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with FakeModel(["ok"]) as model:
            by_proxy(model, monkeypatch)
            with pytest.raises(UserActionRequired, match=r"redirect \(HTTP 307\)"):
                await ask(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
        assert redirected == [f"Bearer {KEY}"]
        assert model.requests == []
    finally:
        await runner.cleanup()


async def test_no_header_takes_a_secret_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As libraries send keys in headers of their own, which HTTP clients take along when they are redirected."""
    import httpx2

    request = httpx2.Request("POST", f"https://{ELSEWHERE}/v1", headers={"x-api-key": KEY, "accept": "any/thing"})
    await model_hosts.guard(lambda: "api.openai.com")(request)
    assert "x-api-key" not in request.headers
    assert request.headers["accept"] == "any/thing"
    request = httpx2.Request("POST", "https://api.openai.com/v1", headers={"x-api-key": KEY})
    await model_hosts.guard(lambda: "api.openai.com")(request)
    assert request.headers["x-api-key"] == KEY


async def test_a_server_of_openais_protocol_in_the_environment_is_asked_for_chat_completions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with FakeModel(["ok", ErrorAnswer(404, "no such model")]) as model:
        monkeypatch.setenv("OPENAI_BASE_URL", model.base_url)
        assert await ask(None) == "ok"
        assert model.requests[0].api == "chat"
        with pytest.raises(UserActionRequired, match=f"at {model.base_url}: not found"):
            await ask(None)
