"""Hints at commands to try next, which work as they are printed. They contain no secret."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from watchbill.cli import output
from watchbill.tasks import TaskResult
from watchbill.terminal import indented

if TYPE_CHECKING:
    from watchbill.cli.stores import Place
    from watchbill.client import Result

MODEL: Final = "openai:gpt-5-mini"


@dataclass(frozen=True, slots=True)
class Next:
    """The commands to try after a `watchbill run`."""

    crew: str
    """The name of the crew for another command."""
    files: tuple[str, ...]
    """The arguments with which another command finds the same files and crew."""
    place: Place
    repeatable: bool
    """True if the same command can be repeated, because it read nothing from stdin."""
    model: bool
    """True if agents could use a model that is not given."""
    agent: str | None = None
    chosen_model: str | None = None
    """The model that --model gave."""

    def result(self, task_id: str, *more: str) -> str:
        return self._command("result", self.crew, task_id, *more)

    def resume(self, task_id: str) -> str:
        """The command that continues unfinished work."""
        if self.agent is None:
            return self._command("run", *self.files, *self._model(), "--resume")
        # the same id is the same task, done once
        again = [] if "--id" in sys.argv else ["--id", task_id]
        return shlex.join([*program(), *sys.argv[1:], *again]) if self.repeatable else self._command("run", *self.files)

    def anew(self) -> str:
        """The command that starts a new run of the files."""
        return self._command("run", *self.files, *self._model(), "PROMPT")

    def apply(self) -> str:
        """The command that applies the files to the store."""
        file, *more = self.files
        pairs = zip(more[::2], more[1::2], strict=True)
        named = {"--also": "-f", "--namespace": "--namespace"}
        rest = [part for option, value in pairs if option in named for part in (named[option], value)]
        return self._command("apply", "-f", file, *rest)

    def replay(self, *letters: str) -> str:
        return self._command("dead", "replay", self.crew, *letters)

    def say_of_crash(self, ended: Result, letters: Sequence[str]) -> None:
        """Prints the command that shows the traceback; or the traceback itself, if the store is not kept."""
        if not letters:
            return
        if self.place.url is None and self.place.folder is None:
            failed = ended if isinstance(ended, TaskResult) else ended.steps.get(letters[0].partition("/")[2])
            output.say(indented((failed and failed.traceback) or ""))
        else:
            shown = self._command("dead", "show", self.crew, letters[0])
            output.say(f"all of it: {shown}; to try it again: {self.replay(letters[0])}")
            if self.chosen_model is None:  # which `apply` would take away
                output.say(f"if you change the YAML, put it into the store before that: {self.apply()}")

    def say(self, task_id: str, ended: Result, letters: Sequence[str]) -> None:
        """Prints the commands to try, if the store is kept."""
        lines: list[tuple[str, str]] = []
        if self.place.url is not None or self.place.folder is not None:
            lines.append((self.result(task_id, "--output", "yaml"), "what each step returned"))
            run = () if self.agent else ("--run", task_id)
            lines.append((self._command("events", self.crew, *run), "what happened"))
            for letter in letters[:1]:
                lines.append((self._command("dead", "show", self.crew, letter), "the traceback, and the prompt"))
                lines.append((self.replay(letter), "to try it again, once the cause is mended"))
                if self.chosen_model is None:  # which `apply` would take away
                    lines.append((self.apply(), "before that, if you have changed the YAML"))
        if self.model and self.repeatable and ended.success:
            with_model = shlex.join([*program(), *sys.argv[1:], "--model", MODEL])
            lines.append((with_model, "with a model; it needs OPENAI_API_KEY"))
        if lines:
            output.say("\nWhat to try next:")
        for command, what in lines:
            output.say(f"  {command}\n      {what}")

    def _model(self) -> tuple[str, ...]:
        return () if self.chosen_model is None else ("--model", self.chosen_model)

    def _command(self, *parts: str) -> str:
        text = shlex.join([*program(), *parts, *self.place.options])
        secret = self.place.url is not None and self.place.tried == "--redis-url" and not self.place.options
        return f"{text}  (with the same --redis-url)" if secret else text


def program() -> list[str]:
    """The command that starts this program."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        name = Path(sys.executable).name
        on_path = shutil.which(name) == sys.executable
        return [name if on_path else sys.executable, "-m", "watchbill"]
    found = shutil.which("watchbill")
    return ["watchbill"] if found and Path(found).resolve() == called.resolve() else [sys.argv[0]]
