"""The command line: one file per group of commands, and the composition root.

Modules here import little when they are imported, so that `--help` is quick; what a command needs, it imports when it
runs. Results go to stdout and everything else to stderr.
"""

from importlib.util import find_spec

from watchbill.errors import MissingExtra

if _missing := [name for name in ("typer", "rich", "yaml") if find_spec(name) is None]:
    raise MissingExtra("The command line", "cli", ", ".join(_missing))
