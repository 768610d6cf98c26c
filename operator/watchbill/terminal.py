"""Text of strangers (agents, models, exceptions) as a terminal and a log may have it: nothing in it steers, or forges.

Taken out are control characters (but line feed and tab), separators that some readers take for a new line, and what
reverses the order of letters on the screen. Emoji, their joiners and combining marks stay, as do the marks of direction
that Arabic and Hebrew need.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

_STEERS: Final = r"\x7f-\x9f\u061c\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_CONTROL: Final = re.compile(rf"[\x00-\x08\x0b-\x1f{_STEERS}]")
STEERS: Final = re.compile(f"[{_STEERS}]")
"""Characters that JSON and YAML would pass as they are."""
_INDENT: Final = "\n    "


def printable(text: str) -> str:
    """The text with U+FFFD in place of what would steer a terminal."""
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """The text as `printable` shows it, in one line."""
    return " ".join(printable(text).split("\n"))


def indented(text: str) -> str:
    """The text as `printable` shows it, with each line after the first indented: it can look like no other message."""
    return printable(text).rstrip("\n").replace("\n", _INDENT)


def escaped(document: str) -> str:
    r"""A document of JSON, or of YAML whose every steering character is in double quotes, with `\uXXXX` for those."""
    return STEERS.sub(lambda match: f"\\u{ord(match[0]):04x}", document)


def as_json(value: Any, *, indent: int | None = None) -> str:
    """JSON as people read it, in any alphabet."""
    return escaped(json.dumps(value, ensure_ascii=False, indent=indent))


def span(seconds: float) -> str:
    """A duration in seconds as `0.4s`, `12.3s`, `4m05s` or `2h03m`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"
