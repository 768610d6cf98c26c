"""The origin of this installation, so that advice to install more of it names something that exists.

Reads the record that installers leave (PEP 610), and only when it is asked. Standard library only: the message that
something is missing must not need it.
"""

from __future__ import annotations

import json
import os
import shlex
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

NAME = "watchbill"


def command(extra: str) -> str:
    """Returns the command that adds an optional part to this installation, as a person would type it."""
    from importlib import metadata  # takes long to import, and only advice needs it

    try:
        text = metadata.distribution(NAME).read_text("direct_url.json")
        source = _source(json.loads(text), extra) if text else ""
    except (metadata.PackageNotFoundError, KeyError, ValueError, TypeError):
        source = ""
    return f"pip install {source}" if source else f"pip install '.[{extra}]' in a checkout of Watchbill"


def _source(origin: dict[str, Any], extra: str) -> str:
    """Returns the argument for pip; empty where that is no longer there."""
    url = str(origin["url"])
    if url.startswith("file:"):
        path = url2pathname(urlsplit(url).path)
        if not os.path.exists(path):
            return ""
        return ("-e " if origin.get("dir_info", {}).get("editable") else "") + shlex.quote(f"{path}[{extra}]")
    if vcs := origin.get("vcs_info"):
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    return shlex.quote(f"{NAME}[{extra}] @ {url}")
