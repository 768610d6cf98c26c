"""docs/delivery.md: every destination in it can be declared, and the receiver in it works."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from aiohttp.test_utils import TestServer
from receivers import destination, message

from watchbill.api.delivery import CHANNELS, Destination
from watchbill.delivery import MOUNTED, Sender, http, teams, telegram
from watchbill.errors import NotDelivered
from watchbill.plan import deliveries as plan
from watchbill.settings import Settings

TEXT = (Path(__file__).parents[2] / "docs" / "delivery.md").read_text()
YAML = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
[RECEIVER] = re.findall(r"^```python\n(# receiver.py\n.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
[PAYLOAD] = re.findall(r"^```json\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.pure
def test_every_channel_is_shown_and_every_destination_can_be_declared() -> None:
    found = [Destination.model_validate(given) for text in YAML for given in yaml.safe_load(text)["delivery"]]
    assert {one.channel for one in found} == set(CHANNELS)
    assert [f"### {channel}\n" in TEXT for channel in CHANNELS] == [True] * len(CHANNELS)


@pytest.mark.pure
def test_the_figures_are_those_of_the_code() -> None:
    assert json.loads(PAYLOAD).keys() == message().payload().keys()
    assert f"more than {plan.OUTPUT_MAX_BYTES // 1024} KiB" in TEXT
    assert plan.SCHEDULE_SECONDS[:6] == (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600)
    assert "after 5 s, 5 min, 30 min, 2 h, 5 h, and then each 10 h" in TEXT
    assert (len(plan.SCHEDULE_SECONDS) + 1, plan.CIRCUIT_FAILURES, plan.CIRCUIT_SECONDS) == (10, 5, 30)
    assert plan.CIRCUIT_MAX_SECONDS == 10 * 60
    assert f"a pause of {http.THROTTLE_SECONDS:g} s" in TEXT
    assert f"`WATCHBILL_DELIVERY_TIMEOUT_SECONDS` ({Settings().delivery_timeout_seconds:g})" in TEXT
    assert f"the {telegram.TEXT_MAX:,} characters of Telegram" in TEXT
    assert f"more than {teams.BODY_MAX_BYTES // 1000} kB" in TEXT
    assert f"`{MOUNTED}/NAME/KEY`" in TEXT
    outcomes = get_args(get_args(Destination.model_fields["outcomes"].annotation)[0])
    assert f"# {', '.join(outcomes)}; default: both" in TEXT


async def test_the_receiver_verifies_and_takes_each_message_once(
    sender: Any, secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets["KEY"] = "whsec_" + base64.b64encode(b"k" * 32).decode()
    monkeypatch.setenv("SIGNING_KEY", secrets["KEY"])
    program: dict[str, Any] = {"__name__": "receiver"}
    exec(compile(RECEIVER, "receiver.py", "exec"), program)
    server = TestServer(program["app"])
    await server.start_server()
    sends: Sender = sender()
    to = destination(webhook={"url": str(server.make_url("/")), "signingKey": "env:KEY"})
    for attempt in (1, 2):
        assert (await sends.send(message(attempt=attempt), to)).status == 200
    assert capsys.readouterr().out == "writer Done.\n"
    secrets["KEY"] = "whsec_" + base64.b64encode(b"x" * 32).decode()
    with pytest.raises(NotDelivered, match="401"):
        await sends.send(message(delivery_id="t2.ops"), to)
    await server.close()
