"""A proxy on loopback before the API server or a store, which a test can have drop all that passes, as a broken network
does."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit


class Proxy:
    """Passes bytes on. While it drops them, connections stay open and nobody hears anything; new ones are not made."""

    def __init__(self, upstream: str) -> None:
        """`upstream`: the URL of an API server, or of a store at a Unix socket."""
        parts = urlsplit(upstream)
        self._upstream = unquote(parts.path) if parts.scheme == "unix" else (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "redis" if parts.scheme == "unix" else parts.scheme
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._passes = True
        self._drops = 0
        """Number of times that it has begun to drop all."""
        self._ends: list[socket.socket] = []
        self._dead: list[socket.socket] = []
        """Ends of connections that are open, and on which nothing passes any more."""
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # which wakes the thread
        self._accepting.join()
        for end in (self._listener, *self._ends, *self._dead):
            end.close()

    def drop(self) -> None:
        """Drops all bytes from now on, both ways."""
        self._passes = False  # before the number is raised: a connection has the number of before, or is not made
        self._drops += 1

    def heal(self, *, resets: bool = True) -> None:
        """Passes new connections on. The ones before stay dead: bytes of theirs are lost. `resets`: their ends are told
        so; else nobody ever hears of it."""
        before, self._ends = self._ends, []
        self._passes = True
        if resets:
            for end in before:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)  # a thread that reads from it keeps it open otherwise
                end.close()
        else:
            self._dead += before

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # it is closed
            self._ends.append(near)
            drops = self._drops  # before it looks whether bytes pass: they may cease to while it connects
            if not self._passes:
                continue  # no answer, and no end
            far = socket.socket(socket.AF_UNIX if isinstance(self._upstream, str) else socket.AF_INET)
            far.connect(self._upstream)
            self._ends.append(far)
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(one, other, drops), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, drops: int) -> None:
        """`drops`: that number before the connection was made."""
        try:
            while data := one.recv(65536):
                if drops != self._drops:
                    return
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            return  # one of the ends is closed


@contextmanager
def before_api_server(kubeconfig: Path, through: Path) -> Iterator[Proxy]:
    """A proxy before the API server of a kubeconfig. A copy of that, which leads through the proxy, is at `through`."""
    config = json.loads(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    with Proxy(cluster["server"]) as proxy:
        cluster["server"] = proxy.url
        through.touch(mode=0o600)
        through.write_text(json.dumps(config))
        yield proxy
