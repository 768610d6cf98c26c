"""The proxy of the tests drops what it is to drop."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from e2e.cluster import machine
from e2e.control_plane.tcp_proxy import Proxy


def test_a_connection_that_is_being_made_while_all_is_dropped_passes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, real, before = str(tmp_path / "socket"), socket.socket.connect, passing()
    with (
        socket.socket(socket.AF_UNIX) as upstream,
        Proxy(f"unix://{quote(at)}") as proxy,
        socket.socket() as near,
    ):
        upstream.bind(at)
        upstream.listen()

        def slow(of: socket.socket, address: object) -> None:
            if address == at:
                proxy.drop()
            real(of, address)  # type: ignore[arg-type]

        monkeypatch.setattr(socket.socket, "connect", slow)
        near.connect(("127.0.0.1", urlsplit(proxy.url).port))
        far, _ = upstream.accept()
        with far:
            for end in (near, far):
                end.sendall(b"lost")
            machine.until(lambda: passing() <= before, within=60, what="what was sent is dropped, both ways")
            for end in (near, far):
                end.setblocking(False)
                with pytest.raises(BlockingIOError):
                    end.recv(1)


def passing() -> set[threading.Thread]:
    """The threads that pass bytes on, with those that other tests have left behind."""
    return {one for one in threading.enumerate() if "(_pass)" in one.name}
