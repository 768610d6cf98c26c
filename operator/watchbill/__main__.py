"""`watchbill`, and `python -m watchbill`. Holds nothing but the message for an install without the command line."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Runs the command line, and exits with its code: 0 ok, 1 the task failed, 2 usage, 3 no store to be reached."""
    missing = [name for name in ("typer", "rich", "yaml") if find_spec(name) is None]
    if missing:
        from watchbill.errors import install

        sys.stderr.write(
            f"error: the command line needs an optional part of Watchbill ({', '.join(missing)} not found). "
            f"{install('cli')}\n"
        )
        sys.exit(2)
    from watchbill.cli import app

    app.main()


if __name__ == "__main__":
    main()
