"""Decides where the code that a crew names may come from.

A crew's definition is in the store, and a program that may only write there must not choose the code that a worker
runs. So a name may refer only to code of Watchbill, to entry points, to the crew's folders, and to modules that the
person who starts the worker has allowed. This module imports nothing: it judges names and the files of loaded modules.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path
from typing import Any, Final, Self

SETTING: Final = "WATCHBILL_ALLOW_MODULES"
_OURS: Final = "watchbill"


@dataclass(frozen=True)
class Sources:
    """The code that a worker may run besides Watchbill's own agents and tools, and entry points."""

    folders: tuple[Path, ...] = ()
    """Folders of modules beside YAML files: a crew may name all that is defined in them."""
    modules: tuple[str, ...] = ()
    """Installed modules and packages that a crew may name, with all below them."""
    chosen: frozenset[str] = frozenset()
    """References that the person who starts the process has written; their code may come from any installed package."""

    @classmethod
    def of(cls, folders: Iterable[Path], modules: Iterable[str] = (), chosen: Iterable[str] = ()) -> Self:
        return cls(tuple(dict.fromkeys(folder.resolve() for folder in folders)), tuple(modules), frozenset(chosen))

    def to_json(self) -> dict[str, list[str]]:
        """The sources as JSON, for a process of the worker, which must trust no more than the worker does."""
        return {"folders": list(map(str, self.folders)), "modules": [*self.modules], "chosen": sorted(self.chosen)}

    def files(self, module: str) -> list[Path]:
        """The files of a module in the folders that have it."""
        found = (next(_files(folder, module), None) for folder in self.folders)
        return [path for path in found if path]

    def allows(self, module: str, reference: str) -> bool:
        """Returns whether `reference` may refer to `module`, installed or loaded from a folder."""
        if is_ours(module):
            return False
        if any(same(path, _file_of(module)) for path in self.files(module)):
            return True
        if is_standard(module):
            return False
        return reference in self.chosen or any(module == one or module.startswith(f"{one}.") for one in self.modules)


def is_ours(module: str) -> bool:
    """Returns whether the module is part of Watchbill."""
    return module.partition(".")[0] == _OURS


def is_standard(module: str) -> bool:
    """Returns whether the module is part of Python itself."""
    return module.partition(".")[0] in sys.stdlib_module_names


def is_installed(module: str) -> bool:
    """Returns whether the module's package can be found. Imports nothing."""
    top = module.partition(".")[0]
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return top in sys.modules


def origin(found: Any) -> str | None:
    """The module that defines a function or class; of any other object, the one that defines its class."""
    while isinstance(found, functools.partial):
        found = found.func
    if inspect.ismodule(found):
        return found.__name__
    try:
        module = found.__module__
    except Exception:  # an object without one, or with a __getattr__ of its own that fails
        return None
    return module if isinstance(module, str) else None


def same(one: Path, other: Path | None) -> bool:
    """Returns whether both paths name the same file."""
    try:
        return other is not None and one.samefile(other)
    except OSError:  # inside an archive, or gone
        return False


def _file_of(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if file else None


def _files(folder: Path, module: str) -> Iterator[Path]:
    path = folder.joinpath(*module.split("."))
    for base in (path / "__init__", path):  # Python's own order
        for suffix in (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES):
            if (file := base.with_name(base.name + suffix)).is_file():
                yield file
