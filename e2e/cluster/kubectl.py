"""kubectl as a function. Its kubeconfig is always given; it reads neither ~/.kube nor the environment's KUBECONFIG."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.cluster.reading import Reader


class KubectlError(Exception):
    """kubectl failed. Its text is what kubectl wrote, so that a test can match the API server's words."""

    def __init__(self, words: tuple[str, ...], code: int, stderr: str) -> None:
        super().__init__(f"kubectl {' '.join(words)}: exit code {code}: {stderr.strip()}")
        self.code = code
        self.stderr = stderr


class Kubectl:
    """Call it with kubectl's words: `kubectl("get", "pods", "--namespace", "x")` gives what it printed."""

    def __init__(self, program: str | Path, kubeconfig: Path, *, cache: Path | None = None) -> None:
        self.program = Path(program)
        self.kubeconfig = kubeconfig
        self._reader = Reader(kubeconfig)
        # What it has discovered of an API server; its default place knows servers by port, and ports come again.
        self._environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        self._environment["KUBECACHEDIR"] = str(cache or kubeconfig.parent / "kubectl-cache")

    def __call__(self, *words: str | Path, stdin: str | None = None, timeout: float = 300) -> str:
        """Returns the output of kubectl. Raises KubectlError if it fails, subprocess.TimeoutExpired after `timeout`
        seconds."""
        command = [str(word) for word in words]
        done = subprocess.run(
            [str(self.program), *command],
            input=stdin,
            env=self._environment,
            timeout=timeout,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise KubectlError(tuple(command), done.returncode, done.stderr)
        return done.stdout

    def json(self, *words: str | Path, timeout: float = 300) -> Any:
        """Returns the output of kubectl with `--output=json`, parsed. A plain `get` that succeeds takes no process."""
        what, *more = map(str, words)
        found = self._reader.get(more) if what == "get" else None
        return json.loads(self(*words, "--output=json", timeout=timeout)) if found is None else found

    def items(self, *words: str | Path, timeout: float = 300) -> list[Any]:
        """The objects of a `get`."""
        return list(self.json("get", *words, timeout=timeout)["items"])

    def apply(self, *objects: dict[str, Any] | str, namespace: str | None = None, timeout: float = 300) -> str:
        """Applies objects, each a dict or the text of a manifest."""
        manifests = [text if isinstance(text, str) else json.dumps(text) for text in objects]
        where = [] if namespace is None else [f"--namespace={namespace}"]
        return self("apply", *where, "--filename=-", stdin="\n---\n".join(manifests), timeout=timeout)

    def delete_crds(self, *names: str) -> None:
        """Deletes CustomResourceDefinitions, with all their resources, and waits until they are gone.

        Asks again: the API server forgets one that is deleted just after it was made until somebody touches it.
        """
        for left in reversed(range(12)):
            try:
                self("delete", "crd", "--ignore-not-found", "--timeout=10s", *names)
                return
            except KubectlError:
                if not left:
                    raise

    @contextmanager
    def lines(self, *words: str) -> Iterator[Callable[[], list[bytes]]]:
        """kubectl runs for the length of the block. A call gives the lines that it has printed so far."""
        with tempfile.TemporaryFile() as output:
            command = [str(self.program), *words]
            process = subprocess.Popen(command, env=self._environment, stdin=subprocess.DEVNULL, stdout=output)
            try:
                yield lambda: os.pread(output.fileno(), os.fstat(output.fileno()).st_size, 0).split(b"\n")[:-1]
            finally:
                process.kill()
                process.wait()

    @contextmanager
    def port_forward(self, target: str, port: int, *, namespace: str, within: float = 300) -> Iterator[int]:
        """A port of this machine's loopback that leads to a pod's or Service's: `port_forward("svc/redis", 6379)`."""
        command = [
            str(self.program),
            "port-forward",
            "--address=127.0.0.1",
            f"--namespace={namespace}",
            target,
            f":{port}",
        ]
        process = subprocess.Popen(command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            yield _forwarded_port(process, time.monotonic() + within)
        finally:
            process.kill()
            process.communicate()


def _forwarded_port(process: subprocess.Popen[bytes], deadline: float) -> int:
    if process.stdout is None:
        raise ValueError("its output must be piped")
    said = b""
    while b"\n" not in said:  # "Forwarding from 127.0.0.1:41235 -> 6379"
        readable, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(process.stdout.fileno(), 4096) if readable else b""
        said += chunk
        if not chunk:
            break
    first = said.decode(errors="replace").partition("\n")[0]
    if not first.startswith("Forwarding from "):
        raise TimeoutError(f"kubectl port-forward did not come up: {first or 'it said nothing'}")
    return int(first.split()[2].rpartition(":")[2])
