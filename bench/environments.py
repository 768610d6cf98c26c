"""Each peer's own environment, under ${XDG_CACHE_HOME:-~/.cache}/watchbill-bench, made when it is first asked for.

A peer in Python is a module of bench/peers that names its requirements at its top (PEP 723); it gets a venv with their
current releases. asynq is built there and BullMQ installed there, from bench/peers/asynq and bench/peers/bullmq.
Watchbill and the floor run in the environment that the bench runs in. Installs with pip, go and npm as they are set up.
"""

from __future__ import annotations

import compileall
import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import watchbill

PEERS: Final = Path(__file__).parent / "peers"
ROOT: Final = PEERS.parent.parent
OURS: Final = ("floor", "floor-100", "watchbill")
PYTHON: Final = ("arq", "saq", "taskiq", "streaq", "celery-prefork", "celery-threads", "dramatiq", "rq")
OTHERS: Final = ("asynq", "bullmq")
ALL: Final = (*OURS, *PYTHON, *OTHERS)

_SCRIPT = re.compile(r"^# /// script\n((?:#.*\n)+?)# ///$", re.MULTILINE)


class Missing(Exception):
    """This machine can't run the peer: why."""


@dataclass(frozen=True)
class Environment:
    """The command and environment of a peer's producer."""

    peer: str
    command: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)


def ready(peer: str, *, renew: bool = False) -> Environment:
    """The peer's environment, made if it isn't there or, with `renew`, anew. Raises Missing."""
    if peer == "asynq":
        return Environment(peer, (str(_built_with_go()),))
    if peer == "bullmq":
        return Environment(peer, ("node", str(_installed_with_npm(renew))))
    module, _, variant = peer.partition("-")
    python = sys.executable if peer in OURS else str(_venv(module, renew))
    variables = {"PYTHONPATH": str(ROOT), "BENCH_VARIANT": variant}
    if peer in OURS:
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return Environment(peer, (python, "-m", f"bench.peers.{module}"), variables)


@functools.cache
def compile_ours() -> None:
    """Compiles Watchbill and the bench beside their sources, as images and installed peers are compiled: an interpreter
    that may write no bytecode would else do that at each start of a worker."""
    for folder in (Path(watchbill.__file__).parent, PEERS.parent):
        compileall.compile_dir(folder, quiet=1)


def cache() -> Path:
    """Returns the folder of the environments."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "watchbill-bench"


def requirements(module: str) -> list[str]:
    """Returns the requirements that bench/peers/MODULE.py declares."""
    block = _SCRIPT.search((PEERS / f"{module}.py").read_text())
    assert block, f"bench/peers/{module}.py names no requirements"
    lines = (line.removeprefix("#").strip() for line in block[1].splitlines())
    return list(tomllib.loads("\n".join(lines))["dependencies"])


def _venv(module: str, renew: bool) -> Path:
    folder = cache() / module
    python = folder / "bin" / "python"
    made_of = "\n".join([sys.version, *requirements(module)])
    stamp = folder / "made-of"
    if not renew and stamp.is_file() and stamp.read_text() == made_of and python.exists():
        return python
    _say(f"installing {module} into {folder}")
    _run(sys.executable, "-m", "venv", "--clear", str(folder))
    _run(str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", *requirements(module))
    stamp.write_text(made_of)
    return python


def _built_with_go() -> Path:
    if not shutil.which("go"):
        raise Missing("Go is not installed")
    binary = cache() / "asynq" / "bench"
    binary.parent.mkdir(parents=True, exist_ok=True)
    newest = max(file.stat().st_mtime for file in (PEERS / "asynq").iterdir())
    if not binary.exists() or binary.stat().st_mtime < newest:
        _say(f"building asynq into {binary}")
        _run("go", "build", "-o", str(binary), ".", cwd=PEERS / "asynq")
    return binary


def _installed_with_npm(renew: bool) -> Path:
    if not shutil.which("node") or not shutil.which("npm"):
        raise Missing("Node.js is not installed")
    folder = cache() / "bullmq"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = (PEERS / "bullmq" / "package.json").read_text()
    stamp = folder / "made-of"
    if renew or not stamp.is_file() or stamp.read_text() != wanted:
        _say(f"installing BullMQ into {folder}")
        shutil.rmtree(folder / "node_modules", ignore_errors=True)
        (folder / "package-lock.json").unlink(missing_ok=True)
        (folder / "package.json").write_text(wanted)
        _run("npm", "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
        stamp.write_text(wanted)
    # modules are looked for from where the script is
    return Path(shutil.copy(PEERS / "bullmq" / "bench.mjs", folder))


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise Missing(f"{' '.join(command[:6])} … ended with {done.returncode}:\n{done.stdout.strip()[-2000:]}")


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
