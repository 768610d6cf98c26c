"""A Prometheus: started here on loopback, or one that runs elsewhere; and what it answers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from math import isnan
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from e2e.cluster import machine, monitoring
from e2e.cluster.control_plane import free_ports
from e2e.cluster.machine import ClusterError

READY_SECONDS = 180.0
ANSWER_SECONDS = 120.0


@dataclass(frozen=True)
class Series:
    """One series of an answer."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]
    """Times in seconds since 1970, and values. An answer for one moment has one."""

    @property
    def value(self) -> float:
        """The last value."""
        return self.points[-1][1]


class Prometheus:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def query(self, expr: str) -> list[Series]:
        """Returns the series that this gives now, without those whose value is no number.

        Raises ClusterError when Prometheus does not answer, or refuses the query.
        """
        found = [Series(one["metric"], [_point(*one["value"])]) for one in self.get("query", query=expr)["result"]]
        return [series for series in found if not isnan(series.value)]

    def between(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        """Returns the series that this gave from `start` to `end`, in seconds since 1970, without what is no number.

        Raises ClusterError like `query`.
        """
        answer = self.get("query_range", query=expr, start=start, end=end, step=step)["result"]
        found = [
            Series(
                one["metric"], [point for point in (_point(*value) for value in one["values"]) if not isnan(point[1])]
            )
            for one in answer
        ]
        return [series for series in found if series.points]

    def get(self, path: str, **parameters: Any) -> Any:
        """Returns the data of the API at this path, as `targets`. Raises ClusterError like `query`."""
        try:
            with urlopen(f"{self.url}/api/v1/{path}?{urlencode(parameters)}", timeout=ANSWER_SECONDS) as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            with error:
                said = error.read(2000).decode(errors="replace").strip()
            raise ClusterError(f"Prometheus at {self.url} refuses {path}: HTTP {error.code}: {said}") from None
        except (OSError, HTTPException, ValueError, KeyError) as error:
            fix = "Give the URL at which it is reached from here, as in http://127.0.0.1:9090."
            raise ClusterError(f"No Prometheus answers at {self.url}: {error}", fix) from None


def _point(time: float, value: str) -> tuple[float, float]:
    return float(time), float(value)


@contextmanager
def running(folder: Path, config: Mapping[str, Any], *flags: str) -> Iterator[Prometheus]:
    """A Prometheus of this configuration for the length of the block. Its data and its log are in the folder.

    Raises ClusterError where there is no Prometheus, and when it ends by itself.
    """
    program = monitoring.path("prometheus")
    (port,) = free_ports(1)
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(dict(config)))
    command = [
        str(program),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
        *flags,
    ]
    with served(command, port, folder) as url:
        yield Prometheus(url)


@contextmanager
def served(command: Sequence[str], port: int, folder: Path) -> Iterator[str]:
    """The program runs for the length of the block, and is ready: as Prometheus and Alertmanager say it. Yields its
    URL."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        if process.poll() is not None:
            raise ClusterError(f"{command[0]} ended by itself:\n{end_of(log)}")
        return _is_ready(url)

    try:
        machine.until(is_ready, within=READY_SECONDS, what=f"{command[0]} is ready", ignoring=(OSError,))
        yield url
    finally:
        process.kill()
        process.wait()


def end_of(log: Path) -> str:
    """The last lines of a log, indented."""
    return "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-15:])


def _is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/-/ready", timeout=60):
            return True
    except HTTPError as error:
        error.close()
        return False
