"""Writes results as text, JSON or YAML on stdout, and messages on stderr. No other module writes results.

Control characters in foreign text are escaped on a terminal. A text result goes into files and pipes unchanged.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

from watchbill.cli.options import Output
from watchbill.terminal import STEERS, as_json, escaped, one_line, printable, span

if TYPE_CHECKING:
    from watchbill.client import Result
    from watchbill.event_types import Gap, TownEvent

seconds: Final = span
_HEADING: Final = re.compile(r"#{1,6} \S")

_reserved: TextIO | None = None


def stdout() -> TextIO:
    """The stream for results."""
    return _reserved or sys.stdout


def reserve_stdout() -> None:
    """Reserves stdout for results: prints of agents, their modules and their child processes go to stderr.

    It must be called before any of their code is imported.
    """
    global _reserved
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper) or stream.fileno() != 1:  # closed, or somebody has replaced it
        return
    stream.flush()
    number = os.dup(1)
    try:
        os.dup2(2, 1, inheritable=True)
    except OSError:  # stderr is closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1, inheritable=True)
    _reserved = io.TextIOWrapper(
        open(number, "wb", buffering=0 if stream.write_through else -1, closefd=False),  # noqa: SIM115 - to the end
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    stream.reconfigure(line_buffering=True)  # as stderr, where it now leads


class _Spared(io.TextIOWrapper):
    """A stream that drops text which can't be written because its reader is gone or its disk is full."""

    def write(self, text: str) -> int:
        with self._sparing():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._sparing():
            super().flush()

    @contextlib.contextmanager
    def _sparing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno != errno.ENOSPC:  # there may be room again
                number = self.fileno()
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def spare_stderr() -> None:
    """Makes stderr drop text that can't be written, so that no work or result fails for it."""
    stream = sys.stderr
    if type(stream) is io.TextIOWrapper:
        sys.stderr = _Spared(
            open(stream.fileno(), "wb", buffering=0, closefd=False),  # noqa: SIM115 - to the end
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=True,
            write_through=True,
        )


def say(text: str) -> None:
    """Writes a message on stderr."""
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()


def write(value: Any, form: Output, *, out: TextIO | None = None, end: str = "\n") -> None:
    """Writes a value of JSON's types as one document of JSON or YAML."""
    out = out or stdout()
    if form is Output.YAML:
        out.write(as_yaml(value))
    else:
        out.write(as_json(value, indent=2) + end)
    out.flush()


def as_yaml(value: Any) -> str:
    """The value as readable YAML: keys in their order, long text as blocks."""
    import yaml

    from watchbill.api.scalars import plain

    class Dumper(yaml.SafeDumper):
        """A dumper that writes text of several lines as a block, and no aliases."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        if STEERS.search(value):
            return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"')  # the one that can escape it
        style = "|" if "\n" in value else "'" if plain(value) != value else None  # as text for every reader of YAML
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return escaped(yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110))


def result(ended: Result, form: Output, *, out: TextIO | None = None) -> int:
    """Writes how a run or task ended. Returns the exit code: 0 when all of it completed, else 1."""
    out = out or stdout()
    if form is not Output.TEXT:
        write(ended.model_dump(mode="json"), form, out=out)
    elif ended.output is not None:
        _text(ended.output, out)
    if not ended.success and form is Output.TEXT:
        for line in (ended.error or "it failed without a reason").splitlines():
            say(f"error: {line}")
        over = getattr(ended, "passed_over", ())
        if skipped := [name for name in getattr(ended, "skipped", ()) if name not in over]:
            say(f"never started, because of that: {', '.join(skipped)}")
    if ended.success and form is Output.TEXT and not first_line(ended.output):
        what = "None" if ended.output is None else "an empty text"
        say(f"note: it completed, and there is no output: agent {_last_agent(ended)!r} returned {what}")
    return 0 if ended.success else 1


def first_line(value: Any) -> str:
    """The first line of an output; empty for None and for blank text."""
    from watchbill.plan.values import as_text

    lines = [] if value is None else as_text(value).strip().splitlines()
    return one_line(lines[0]) if lines else ""


def _last_agent(ended: Result) -> str:
    """The agent of the output: that of the last step, or the task's."""
    from watchbill.tasks import TaskResult

    last = ended if isinstance(ended, TaskResult) else list(ended.steps.values())[-1]
    return last.agent_name


def _text(value: Any, out: TextIO) -> None:
    from watchbill.plan.values import as_text

    text = as_text(value)
    if not out.isatty():
        out.write(text if text.endswith("\n") else f"{text}\n")
    elif is_markdown(value):
        from rich.console import Console
        from rich.markdown import Markdown

        Console(file=out).print(Markdown(printable(text), hyperlinks=False))
    else:
        out.write(f"{printable(text)}\n")
    out.flush()


def is_markdown(value: Any) -> bool:
    """Returns whether a terminal shows the text as Markdown: only if it begins with a heading, so that no text is
    mangled."""
    return isinstance(value, str) and bool(_HEADING.match(value.lstrip()))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Writes a table on stdout, for people and for awk."""
    lines = [[one_line(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        stdout().write("  ".join(cells).rstrip() + "\n")


def blank() -> None:
    """Writes an empty line on stdout, between two tables."""
    stdout().write("\n")


def event(entry_id: str, told: TownEvent | Gap, form: Output, *, crew: str = "", out: TextIO | None = None) -> None:
    """Writes an event: a line of text, one JSON object on a line, or one YAML document. `crew`: its name, if shown."""
    from watchbill.event_types import Gap

    out = out or stdout()
    fields: dict[str, Any] = {"id": entry_id}
    if crew:
        fields["crew"] = crew
    fields |= told.model_dump(mode="json", exclude_none=True)
    if form is Output.JSON:
        if isinstance(told, Gap):
            fields["event_type"] = "gap"
        out.write(as_json(fields) + "\n")
    elif form is Output.YAML:
        if isinstance(told, Gap):
            fields["event_type"] = "gap"
        out.write("---\n" + as_yaml(fields))
    elif isinstance(told, Gap):
        out.write("-------- events were missed here: they came faster than they were read, or the store lost them\n")
    else:
        where = told.task_id or told.mission_id or ""
        change = f"{told.old_state} → {told.new_state}" if told.new_state else ""
        parts = (clock(told.timestamp), crew, told.event_type.value, told.agent_id, where, change, told.message)
        out.write(one_line(" ".join(part for part in parts if part)) + "\n")
    out.flush()


def clock(time: datetime) -> str:
    """The time of day in the local time zone."""
    return time.astimezone().strftime("%H:%M:%S")


def now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - shown to a person, and decides nothing


def many(count: int, noun: str) -> str:
    """A count with its noun: `1 run`, `1,234 runs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
