"""The options that commands share, and which of them contradict each other."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from watchbill.errors import InvalidInput, Problem


class Output(StrEnum):
    """The format of results on stdout."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Format of the result on stdout.")]
RedisUrlOption = Annotated[
    str | None,
    typer.Option(
        "--redis-url",
        metavar="URL",
        help="URL of the store: redis://, redis+sentinel://, redis+cluster:// (rediss for TLS) or unix://. "
        "Default: WATCHBILL_REDIS_URL, else the private store.",
        show_default=False,
    ),
]


def _folder(text: str) -> Path:
    """The folder. Raises InvalidInput for an empty text, which comes of an unset variable; Path reads it as `.`."""
    if not text:
        raise InvalidInput(Problem("it is empty", "Name a folder; the current one is '.'.", path="--state"))
    return Path(text)


StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        parser=_folder,
        help="Folder of the private store. Default: ./.watchbill.",
        show_default=False,
    ),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        help="Namespace of crews that are named without one. Default: WATCHBILL_NAMESPACE, else 'default'.",
        show_default=False,
    ),
]
CrewArgument = Annotated[str, typer.Argument(help="The crew: NAME or NAMESPACE/NAME.")]
PromptArgument = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="The prompt; - reads it from stdin.", show_default=False)
]
PromptFileOption = Annotated[
    Path | None, typer.Option("--file", metavar="PATH", help="Read the prompt from a file.", show_default=False)
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=@FILE|NAME=TEXT",
        help="Named input, cited as {inputs.NAME} in prompts; @- is stdin. Repeatable.",
        show_default=False,
    ),
]


def _timeout(text: str) -> float:
    """Parses seconds, or a duration with its unit. Raises InvalidInput."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = age(text, "--timeout").total_seconds()
    if not 0 <= seconds < float("inf"):
        raise InvalidInput(Problem(f"{text!r} is not a span of time", "Write 90, 90s, 30m or 12h.", path="--timeout"))
    return seconds


TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="TIME",
        parser=_timeout,
        help="Longest wait for the end: 90 (seconds), 90s, 30m or 12h. After it the command exits with 1.",
        show_default=False,
    ),
]
IdOption = Annotated[
    str | None,
    typer.Option(
        "--id",
        help="Id of the run or task. Work with the same id is done once; other work with that id is refused.",
        show_default=False,
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")]
AgentOption = Annotated[
    str | None, typer.Option("--agent", help="Run only this agent, instead of the whole crew.", show_default=False)
]

VerboseOption = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        help="Log more on stderr: -v INFO, with tracebacks of failed attempts; -vv DEBUG. "
        "Default: WATCHBILL_LOG_LEVEL, else WARNING.",
        show_default=False,
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Log only errors on stderr, and show no progress.")]


def add(
    wrapped: Callable[..., Any], command: Callable[..., Any], added: Mapping[str, tuple[Any, Any]], *, without: str = ""
) -> None:
    """Gives `wrapped` the signature of `command`, without the parameter `without`, and with the options `added` at its
    end: name → (type, default)."""
    signature = inspect.signature(command, eval_str=True)
    parameters = [
        *(one for name, one in signature.parameters.items() if name != without),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, (kind, default) in added.items()
        ),
    ]
    wrapped.__annotations__ = {one.name: one.annotation for one in parameters}
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]


def contradiction(first: str, second: str, fix: str) -> InvalidInput:
    """The error for two options that contradict each other."""
    return InvalidInput(Problem(f"{first} and {second} contradict each other", fix))


def refuse_together(pairs: dict[tuple[str, str], tuple[object, object, str]]) -> None:
    """Raises InvalidInput for pairs of options that are both given.

    `pairs`: the two options → their values and the fix.
    """
    problems = [
        problem
        for (first, second), (one, other, fix) in pairs.items()
        if _given(one) and _given(other)
        for problem in contradiction(first, second, fix).problems
    ]
    if problems:
        raise InvalidInput(problems)


def _given(value: object) -> bool:
    return value is not None and value is not False and value != []


_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def age(text: str, option: str) -> timedelta:
    """Parses a duration: 90s, 30m, 12h, 7d; a century at most. Raises InvalidInput."""
    if not (parts := re.fullmatch(r"(\d{1,9})([smhd])", text.strip(), re.ASCII)):
        raise InvalidInput(Problem(f"{text!r} is not a span of time", "Write 90s, 30m, 12h or 7d.", path=option))
    return min(timedelta(seconds=int(parts[1]) * _SECONDS[parts[2]]), timedelta(days=36_500))
