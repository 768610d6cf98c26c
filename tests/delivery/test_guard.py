"""The guard: no connection goes inside unless a setting allows it, by whatever name or spelling."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from receivers import Receiver, certificate, raw

from watchbill import settings
from watchbill.delivery.http import Http
from watchbill.errors import DeliveryRefused, InvalidInput, NotDelivered
from watchbill.guard import AddressRefused, Guard
from watchbill.settings import Settings

PUBLIC = ["1.1.1.1", "93.184.216.34", "192.0.1.1", "100.63.255.255", "2606:4700::1", "2a00:1450:4001::1"]
INSIDE = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.88.99.1"),
    *("198.18.0.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.0.2.1", "203.0.113.9"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::ffff:0:127.0.0.1"),  # IPv4-mapped and its kin
    *("64:ff9b::7f00:1", "64:ff9b:1::a00:1"),  # NAT64
    *("2002:7f00:1::", "2001:0:7f00:1::1"),  # 6to4, Teredo
    *("localhost", "", "1.1.1"),
]


def allows(guard: Guard, address: str) -> bool:
    try:
        guard.check(address)
    except AddressRefused:
        return False
    return True


def of(allow: str, *, public: bool = True) -> Guard:
    return Guard(Settings(delivery_allow=allow).delivery_networks, public=public)


@pytest.mark.pure
def test_public_addresses_are_allowed_and_all_others_are_not() -> None:
    assert [address for address in PUBLIC if not allows(of(""), address)] == []
    assert [address for address in INSIDE if allows(of(""), address)] == []


@pytest.mark.pure
def test_a_setting_allows_networks_and_nothing_beside_them() -> None:
    assert [address for address in INSIDE if allows(of("loopback"), address)] == ["127.0.0.1", "127.255.255.254", "::1"]
    private = ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd00:ec2::254"]
    assert [address for address in INSIDE if allows(of(" Private "), address)] == private
    mixed = of("10.0.0.0/30, 64:ff9b::/96")
    assert [address for address in INSIDE if allows(mixed, address)] == ["10.0.0.1", "64:ff9b::7f00:1"]
    assert allows(mixed, "1.1.1.1")
    plain = of("10.0.0.0/30", public=False)
    assert [allows(plain, address) for address in ("10.0.0.1", "1.1.1.1")] == [True, False]


@pytest.mark.pure
@pytest.mark.parametrize("listed", ["10.0.0.1/8", "intranet", "10.0.0.0/33"])
def test_a_setting_that_is_no_list_of_networks_is_refused_by_its_name(
    listed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHBILL_DELIVERY_ALLOW", listed)
    with pytest.raises(InvalidInput, match=r"WATCHBILL_DELIVERY_ALLOW: .*the words private, loopback and apprise"):
        settings.read(Settings)


class Names(AbstractResolver):
    """Look-ups of one name, each with the next answer; the last answer stays."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        kinds = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in answer]
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=numeric)
            for address, kind in zip(answer, kinds, strict=True)
        ]

    async def close(self) -> None:
        pass


@pytest.fixture
async def connections() -> AsyncIterator[tuple[int, list[int]]]:
    """The port of a server, and the number of connections that it got."""
    counted = [0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counted[0] += 1

    server, port = await raw(serve)
    yield port, counted
    server.close()


@pytest.mark.pure
def test_what_is_refused_is_named() -> None:
    with pytest.raises(AddressRefused) as caught:
        of("").check("10.0.0.1")
    assert caught.value.address == "10.0.0.1"


async def refused(http: Http, url: str) -> str:
    try:
        with pytest.raises(DeliveryRefused) as caught:
            await http.post(url, b"{}", {}, receiver="the webhook")
        return str(caught.value)
    finally:
        await http.aclose()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433", "0177.0.0.1", "127.1", "0", "localhost"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_spelling_of_this_machine_is_connected_to(
    scheme: str, host: str, connections: tuple[int, list[int]]
) -> None:
    port, counted = connections
    # This is what a system makes of all these. Of an address as such nobody asks a resolver.
    http = Http((), 5, resolver=Names(["127.0.0.1"]))
    text = await refused(http, f"{scheme}://{host}:{port}/")
    if "no URL" not in text:  # aiohttp itself takes no part in some of these spellings
        assert text.startswith("the webhook is at ")
        assert text.endswith("allow its network by WATCHBILL_DELIVERY_ALLOW")
        assert ("over http://. Use https://" in text) == (scheme == "http")
    assert counted == [0]


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "64:ff9b::7f00:1", "2002:7f00:1::1", "169.254.169.254", "::ffff:1.1.1.1"]
)
async def test_a_name_that_leads_inside_is_refused_with_its_address(address: str) -> None:
    text = await refused(Http((), 5, resolver=Names([address])), "https://hooks.example.com/")
    assert text.startswith(f"the webhook is at {address}, and the address is not one that results may be delivered to")


async def test_a_name_that_leads_elsewhere_at_the_second_look_up_is_refused_then(receiver: Receiver) -> None:
    allow = Settings(delivery_allow="127.0.0.1/32").delivery_networks
    http = Http(allow, 60, resolver=Names(["127.0.0.1"], ["127.0.0.2"]), use_dns_cache=False, force_close=True)
    url = receiver.url.replace("127.0.0.1", "rebinds.example.com")
    answer = await http.post(url, b"1", {}, receiver="the webhook")
    assert (answer.status, [got.body for got in receiver.got]) == (200, [b"1"])
    assert "127.0.0.2" in await refused(http, url)
    assert len(receiver.got) == 1


async def test_of_a_names_addresses_only_the_allowed_ones_are_connected_to(receiver: Receiver) -> None:
    allow = Settings(delivery_allow="127.0.0.1/32").delivery_networks
    http = Http(allow, 60, resolver=Names(["10.9.9.9", "127.0.0.1"]))
    url = receiver.url.replace("127.0.0.1", "two.example.com")
    assert (await http.post(url, b"", {}, receiver="the webhook")).status == 200
    await http.aclose()
    all_inside = Http(allow, 60, resolver=Names(["10.9.9.9", "10.9.9.8"]))
    assert "the webhook is at 10.9.9." in await refused(all_inside, url)


async def test_a_plain_url_leads_to_allowed_networks_only() -> None:
    text = await refused(Http((), 5, resolver=Names(["1.1.1.1"])), "http://hooks.example.com/")
    assert text.endswith("over http://. Use https://, or allow its network by WATCHBILL_DELIVERY_ALLOW")


async def test_no_proxy_of_the_environment_is_asked(
    receiver: Receiver, connections: tuple[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, counted = connections
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    http = Http(Settings(delivery_allow="loopback").delivery_networks, 60)
    assert (await http.post(receiver.url, b"", {}, receiver="the webhook")).status == 200
    assert counted == [0]
    await http.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com",
        "https://",
        "https:///x",
        "https://a b/",
        "https://exämple.com/",
        "https://a/\r\nX: y",
        "https://[::1",
    ],
)
async def test_what_is_no_url_is_refused_without_being_quoted(url: str) -> None:
    text = await refused(Http((), 5), url)
    assert text == "the webhook is no URL. Begin it with https://, and encode all but ASCII"


async def test_the_guard_serves_other_clients_of_aiohttp_too(receiver: Receiver) -> None:
    async with aiohttp.ClientSession(connector=of("").connector()) as session:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await session.get(receiver.url)
    assert isinstance(caught.value.os_error, AddressRefused)
    async with aiohttp.ClientSession(connector=of("loopback").connector()) as session, session.get(receiver.url) as got:
        assert got.status == 200


async def test_a_receiver_needs_a_certificate_that_somebody_vouches_for(tmp_path: Path) -> None:
    found, key = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(found, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()

    server, port = await raw(serve, context)
    allow = Settings(delivery_allow="loopback").delivery_networks
    url = f"https://localhost:{port}/"
    knows = Http(allow, 60, ssl=ssl.create_default_context(cafile=found))
    assert (await knows.post(url, b"{}", {}, receiver="the webhook")).status == 204
    doubts = Http(allow, 60)
    with pytest.raises(NotDelivered, match="the webhook has no certificate that can be trusted") as caught:
        await doubts.post(url, b"{}", {}, receiver="the webhook")
    assert "localhost" not in str(caught.value)
    for http in (knows, doubts):
        await http.aclose()
    server.close()


async def test_a_host_that_nobody_knows_may_be_known_later() -> None:
    class Nobody(Names):
        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
            raise OSError(None, "Name or service not known")

    http = Http((), 5, resolver=Nobody([]))
    with pytest.raises(NotDelivered, match="has a host that nobody knows"):
        await http.post("https://hooks.example.com/", b"", {}, receiver="the webhook")
    await http.aclose()
