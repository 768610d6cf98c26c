"""Telegram and Teams, to servers that stand for theirs: what is sent, within which bounds, and what answers mean."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from receivers import Receiver, destination, message

from watchbill.delivery import Delivered, Message, Sender, teams, telegram, texts
from watchbill.errors import DeliveryRefused, DestinationGone, NotDelivered

TOKEN = "123456:ABC-DEF1234ghIkl-zyx57W2v1u123ew11"
CHAT = destination(telegram={"botToken": "env:TOKEN", "chatId": "-1009876"})
FLOW = destination(teams={"url": "env:FLOW"})
FLOW_PATH = "/workflows/abc/triggers/manual/paths/invoke?api-version=2016-06-01&sp=%2Ftriggers%2Frun&sig=Secr%2DetS1g"
Make = Callable[..., Sender]


async def failure(sender: Sender, to: Any, hidden: str) -> DeliveryRefused | NotDelivered:
    with pytest.raises((DeliveryRefused, NotDelivered)) as caught:
        await sender.send(message(), to)
    assert hidden not in f"{caught.value!r} {caught.value}"
    found: Any = caught.value
    return found


@pytest.fixture
def telegram_sender(receiver: Receiver, sender: Make, secrets: dict[str, str]) -> Sender:
    secrets["TOKEN"] = TOKEN
    return sender(telegram_url=receiver.url + "/")


@pytest.fixture
def teams_sender(receiver: Receiver, sender: Make, secrets: dict[str, str]) -> Sender:
    secrets["FLOW"] = receiver.url + FLOW_PATH
    return sender()


# ---------------------------------------------------------------- Telegram


def said(ok: bool, **more: Any) -> str:
    return json.dumps({"ok": ok, **more})


async def test_a_bot_writes_escaped_html_to_the_chat(receiver: Receiver, telegram_sender: Sender) -> None:
    receiver.answer(200, said(True, result={"message_id": 7}))
    sent = message(output="a < b & <b>c</b>")
    assert await telegram_sender.send(sent, CHAT) == Delivered(status=200)
    (got,) = receiver.got
    assert got.path == f"/bot{TOKEN}/sendMessage"
    assert json.loads(got.body) == {
        "chat_id": "-1009876",
        "text": "<b>writer completed</b>\n\na &lt; b &amp; &lt;b&gt;c&lt;/b&gt;\n\n<i>Task t1, 1.2 s</i>",
        "parse_mode": "HTML",
        "link_preview_options": {"is_disabled": True},
    }


@pytest.mark.pure
@pytest.mark.parametrize("output", ["x" * 9000, "&" * 9000, "<&>" * 4000, "😀" * 5000, "a&" * 2041, "ü\n" * 4096])
def test_a_long_text_is_cut_with_a_mark_and_no_entity_is_cut_through(output: str) -> None:
    text = telegram.text(message(output=output))
    assert len(text.encode("utf-16-le")) // 2 <= 4096
    shown = re.fullmatch(
        r"<b>writer completed</b>\n\n(.*)\n… \(cut: (\d+) more characters\)\n\n<i>Task t1, 1.2 s</i>", text, re.DOTALL
    )
    assert shown is not None
    kept = html.unescape(shown[1])
    assert html.escape(kept) == shown[1], "it is made of whole entities"
    assert output == kept + output[len(kept) :]
    assert len(kept) + int(shown[2]) == len(output)
    longer = html.escape(output[: len(kept) + 12])
    assert len(text.encode("utf-16-le")) // 2 - len(shown[1]) + len(longer.encode("utf-16-le")) // 2 > 4096, "all fits"


@pytest.mark.pure
def test_what_fits_is_not_cut() -> None:
    assert "cut" not in telegram.text(message(output="x" * 4000))


@pytest.mark.parametrize(
    ("status", "answer", "kind", "told", "pause"),
    [
        (429, {"parameters": {"retry_after": 35}, "description": "Too Many Requests"}, NotDelivered, "Too Many", 35.0),
        (429, {}, NotDelivered, "429", 30.0),
        (500, {"description": "Internal"}, NotDelivered, "Internal", None),
        (502, {}, NotDelivered, "502", 30.0),
        (400, {"description": "Bad Request: chat not found"}, DeliveryRefused, "chat not found", None),
        (401, {"description": "Unauthorized"}, DeliveryRefused, "Unauthorized", None),
        (403, {"description": "Forbidden: bot was blocked by the user"}, DeliveryRefused, "blocked", None),
        (404, {"description": "Not Found"}, DeliveryRefused, "Not Found", None),
        (400, {"parameters": {"migrate_to_chat_id": -100123}}, DeliveryRefused, "write chatId: '-100123'", None),
    ],
)
async def test_answers_of_telegram(
    status: int,
    answer: dict[str, Any],
    kind: type[Exception],
    told: str,
    pause: float | None,
    receiver: Receiver,
    telegram_sender: Sender,
) -> None:
    receiver.answer(status, said(False, error_code=status, **answer))
    error = await failure(telegram_sender, CHAT, TOKEN)
    assert (type(error), error.status, getattr(error, "retry_after", None)) == (kind, status, pause)
    assert told in str(error)


@pytest.mark.parametrize("answer", ["", "<html>a proxy's page</html>", "[]", '{"ok": "yes"}', '{"ok": false}'])
async def test_a_200_that_is_not_telegrams_is_no_success(
    answer: str, receiver: Receiver, telegram_sender: Sender
) -> None:
    receiver.answer(200, answer)
    error = await failure(telegram_sender, CHAT, TOKEN)
    assert (type(error), str(error)) == (NotDelivered, "Telegram gave no answer that can be read")


async def test_a_description_that_quotes_the_token_is_freed_of_it(receiver: Receiver, telegram_sender: Sender) -> None:
    receiver.answer(404, said(False, description=f"no method /bot{TOKEN}/sendMessage"))
    assert str(await failure(telegram_sender, CHAT, TOKEN)).endswith("no method /bot[redacted secret 1]/sendMessage")


@pytest.mark.parametrize("value", ["sk-proj-key-of-a-model", "12/../34:abc", "1:a b"])
async def test_no_other_secret_is_sent_as_a_token(
    value: str, receiver: Receiver, telegram_sender: Sender, secrets: dict[str, str]
) -> None:
    secrets["TOKEN"] = value
    assert "is no token of a bot" in str(await failure(telegram_sender, CHAT, value))
    assert receiver.got == []


# ---------------------------------------------------------------- Teams


async def test_a_workflow_gets_an_adaptive_card_at_its_very_url(receiver: Receiver, teams_sender: Sender) -> None:
    receiver.answer(202)
    assert await teams_sender.send(message(success=False, error="It broke."), FLOW) == Delivered(status=202)
    (got,) = receiver.got
    assert got.path == FLOW_PATH
    sent = json.loads(got.body)
    assert sent["type"] == "message"
    (attachment,) = sent["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert [block["text"] for block in card["body"]] == ["writer failed", "It broke.", "Task t1, 1.2 s"]
    assert card["body"][0]["color"] == "Attention"


@pytest.mark.pure
@pytest.mark.parametrize("output", ["x" * 100_000, "ü" * 50_000, '"\\\n' * 20_000, "😀" * 20_000])
def test_a_large_card_is_cut_to_what_teams_takes(output: str) -> None:
    sent = teams.card(message(output=output))
    assert 25_900 < len(sent) <= 26_000
    text = json.loads(sent)["attachments"][0]["content"]["body"][1]["text"]
    shown = re.fullmatch(r"(.*)\n… \(cut: (\d+) more characters\)", text, re.DOTALL)
    assert shown is not None
    assert output.startswith(shown[1])
    assert len(shown[1]) + int(shown[2]) == len(output)


@pytest.mark.parametrize(
    ("status", "kind", "pause"),
    [
        (429, NotDelivered, 30.0),
        (408, NotDelivered, None),
        (503, NotDelivered, 30.0),
        (500, NotDelivered, None),
        (302, NotDelivered, None),
        (400, DeliveryRefused, None),
        (401, DeliveryRefused, None),
        (404, DeliveryRefused, None),
        (413, DeliveryRefused, None),
        (410, DestinationGone, None),
    ],
)
async def test_answers_of_a_workflow(
    status: int, kind: type[Exception], pause: float | None, receiver: Receiver, teams_sender: Sender
) -> None:
    receiver.answer(status, json.dumps({"error": {"code": "WorkflowTriggerIsNotEnabled", "message": FLOW_PATH}}))
    error = await failure(teams_sender, FLOW, "Secr")
    assert (type(error), error.status, getattr(error, "retry_after", None)) == (kind, status, pause)
    assert "WorkflowTriggerIsNotEnabled" in str(error)


@pytest.mark.parametrize("answer", ["<html>", "[]", '{"error": "x"}', json.dumps({"error": {"code": FLOW_PATH}})])
async def test_a_workflows_garbage_is_not_shown(answer: str, receiver: Receiver, teams_sender: Sender) -> None:
    receiver.answer(400, answer)
    assert str(await failure(teams_sender, FLOW, "Secr")) == "the workflow of variable FLOW answered 400 (Bad Request)"


# ---------------------------------------------------------------- texts


@pytest.mark.pure
def test_an_output_that_is_no_text_is_shown_as_json() -> None:
    assert texts.body(message(output={"ü": [1]})) == '{\n  "ü": [\n    1\n  ]\n}'
    assert texts.body(message(output=None)) == "null"
    failed: Message = message(success=False, error=None)
    assert texts.body(failed) == "null"


@pytest.mark.pure
def test_half_a_character_is_replaced() -> None:
    assert texts.body(message(output="a\ud83db")) == "a?b"
