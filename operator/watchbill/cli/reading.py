"""Reads the prompt and the inputs of the command line: from arguments, files or stdin."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from watchbill.cli.options import contradiction
from watchbill.errors import InvalidInput, Problem
from watchbill.tasks import INPUT_MAX_BYTES, PROMPT_MAX_BYTES

STDIN = Path("-")


def work(argument: str | None, file: Path | None, given: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    """The prompt, or None if there is none, and the inputs by name. Raises InvalidInput with all problems.

    A prompt must be UTF-8; the end of its last line is left out when it is read from a file. Inputs are taken as they
    are, byte by byte.
    """
    if argument is not None and file is not None:
        raise contradiction("PROMPT", "--file", "Give the prompt once.")
    from_stdin = _names_of_stdin(argument, file, given)
    if len(from_stdin) > 1:
        raise contradiction(from_stdin[0], from_stdin[1], "Stdin can be read once: give the other one as a file.")
    problems: list[Problem] = []
    prompt: str | None = None
    inputs: dict[str, str] = {}
    try:
        prompt = _prompt(argument, file)
    except InvalidInput as error:
        problems += error.problems
    for item in given:
        try:
            name, text = _input(item)
            if name in inputs:
                raise InvalidInput(Problem(f"input {name!r} is given twice", "Give it once.", path="--input"))
            inputs[name] = text
        except InvalidInput as error:
            problems += error.problems
    if problems:
        raise InvalidInput(problems)
    return prompt, inputs


def uses_stdin(argument: str | None, file: Path | None, given: Sequence[str]) -> bool:
    """Returns whether something is read from stdin, so that the same command can't be repeated."""
    return bool(_names_of_stdin(argument, file, given))


def _names_of_stdin(argument: str | None, file: Path | None, given: Sequence[str]) -> list[str]:
    found = ["PROMPT -"] if argument == "-" else []
    found += ["--file -"] if file == STDIN else []
    return found + [f"--input {item}" for item in given if item.partition("=")[2] == "@-"]


def _prompt(argument: str | None, file: Path | None) -> str | None:
    if argument == "-":
        file = STDIN
    if file is None:
        data = argument.encode("utf-8", "surrogateescape") if argument is not None else None
    else:
        fix = "Give larger text as an input (--input NAME=@FILE) and cite it as {inputs.NAME} in an agent's prompt."
        data = _bytes(file, PROMPT_MAX_BYTES, "prompt", fix).removesuffix(b"\n").removesuffix(b"\r")
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        reason = f"this is not UTF-8 text: byte {data[error.start]:#04x} at position {error.start}"
        fix = "Save it as UTF-8, or give it as an input, which may be anything."
        raise InvalidInput(Problem(reason, fix, path="prompt", source=str(file or ""))) from None


def _input(item: str) -> tuple[str, str]:
    name, separator, text = item.partition("=")
    if not separator or not name:
        reason = f"{item[:80]!r} is not of the form NAME=@FILE or NAME=TEXT"
        raise InvalidInput(Problem(reason, "Write, for example: --input log=@app.log", path="--input"))
    if text.startswith("@"):
        fix = "Put larger data into a store of its own and give a reference to it."
        data = _bytes(Path(text[1:]), INPUT_MAX_BYTES, f"--input {name}", fix)
        text = data.decode("utf-8", "surrogateescape")
    return name, text


def _bytes(path: Path, limit: int, field: str, fix: str) -> bytes:
    def wrong(reason: str, fix: str) -> InvalidInput:
        source = "stdin" if path == STDIN else str(path)
        return InvalidInput(Problem(reason, fix, path=field, source=source))

    try:
        if path == STDIN:
            data = sys.stdin.buffer.read(limit + 2)
        else:
            with path.open("rb") as file:
                data = file.read(limit + 2)
    except FileNotFoundError:
        raise wrong("there is no such file", "Check the path.") from None
    except OSError as error:
        raise wrong(f"it can't be read: {error.strerror}", "Check the path and its permissions.") from None
    if len(data) > limit + (field == "prompt"):  # the end of its last line doesn't count
        size = f"{limit // 1024} KiB" if limit < 1024 * 1024 else f"{limit // 1024 // 1024} MiB"
        raise wrong(f"it has more than {limit} bytes ({size}), which is the limit", fix)
    return data
