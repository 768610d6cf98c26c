"""`crds` and `version`: the CustomResourceDefinitions and the versions of this installation. Neither needs a store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from watchbill.cli import output
from watchbill.cli.options import Output, OutputOption
from watchbill.errors import InvalidInput, Problem


def crds(
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            metavar="DIR",
            help="Folder to write one file per kind into. Default: stdout.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Print the CustomResourceDefinitions of Crew and Heartbeat, for kubectl apply."""
    from watchbill import crd

    files = crd.render()
    if output_dir is None:
        sys.stdout.write("---\n".join(files.values()))
        return 0
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (output_dir / name).write_text(text, encoding="utf-8")
            output.say(f"wrote {output_dir / name}")
    except OSError as error:
        reason = f"{str(output_dir)!r} can't be written to: {error.strerror}"
        raise InvalidInput(Problem(reason, "Choose another folder.", path="--output-dir")) from None
    return 0


def version(form: OutputOption = Output.TEXT) -> int:
    """Print the version of Watchbill, of Python and of redis-py."""
    import platform
    from importlib.metadata import version as installed

    from watchbill import __version__

    found = {"watchbill": __version__, "python": platform.python_version(), "redis-py": installed("redis")}
    if form is Output.TEXT:
        sys.stdout.write(f"watchbill {found['watchbill']} (Python {found['python']}, redis-py {found['redis-py']})\n")
    else:
        output.write(found, form)
    return 0
