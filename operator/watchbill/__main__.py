"""`watchbill`, and `python -m watchbill`. Holds nothing but what must work before the command line is loaded: Ctrl-C,
and the message for an install without it."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

from watchbill import init

_SERVE = ("worker", "operator")
"""Commands that SIGTERM ends in good order."""


def main() -> None:
    """Runs the command line, and exits with its code (`watchbill --help` lists them)."""
    # Nothing has begun: Ctrl-C has nothing to clean up, and no traceback to show. An event loop hears it by itself.
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    init.begin({signal.SIGINT: 130, signal.SIGTERM: 0 if command in _SERVE else 143})
    init.begin_imports()
    from watchbill.errors import MissingExtra

    try:
        from watchbill.cli import app
    except MissingExtra as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    try:
        app.main()
    except SystemExit as end:
        if isinstance(end.code, int):
            init.heed_signals()
            with suppress(OSError, ValueError):  # it can't be written: Python says so when it ends
                sys.stdout.flush()
                init.leave(end.code)
        raise


if __name__ == "__main__":
    main()
