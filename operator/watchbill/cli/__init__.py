"""The command line: one file per group of commands, and the composition root.

Modules here import little at the top, so that `--help` is quick; a command imports the rest when it runs. Results go to
stdout and everything else to stderr.
"""

from importlib.util import find_spec

from watchbill.errors import MissingExtra

if _missing := [name for name in ("typer", "rich", "yaml") if find_spec(name) is None]:
    raise MissingExtra("The command line", "cli", ", ".join(_missing))
