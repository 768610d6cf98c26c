"""A proxy before the API server on loopback, which a test can have drop all that passes, as a broken network does."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes on. While it drops them, connections stay open and nobody hears anything; new ones are not made."""

    def __init__(self, upstream: str) -> None:
        """`upstream`: the URL of a server."""
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 443)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._passes = True
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in (self._listener, *self._ends):
            end.close()

    def drop(self) -> None:
        """Drops all bytes from now on, both ways."""
        self._passes = False

    def heal(self) -> None:
        """Passes new connections on. The ones before stay dead: bytes of theirs are lost."""
        before, self._ends = self._ends, []
        self._passes = True
        for end in before:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # it is closed
            self._ends.append(near)
            if not self._passes:
                continue  # no answer, and no end
            far = socket.create_connection(self._upstream)
            self._ends.append(far)
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                if not self._passes:
                    return
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            return  # one of the ends is closed
