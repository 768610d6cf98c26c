"""Finds the objects that a crew names: built-in ones, entry points, and `package.module:name`, also beside a YAML file.

It imports only modules that its sources allow, and calls nothing that it finds. Python identifies a module by its name
alone, so two folders that both have an `agents.py` can't both be used in one process: such a conflict is an error.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.machinery
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from watchbill.agents import sources
from watchbill.agents.sources import Sources
from watchbill.errors import install

_EXTRAS = {"pydantic_ai": "llm", "openai": "llm", "jsonschema": "llm", "mcp": "mcp"}
"""Modules that Watchbill's optional parts need → the extra that installs them."""

_CAUSES = 5

_beside_yaml: set[Path] = set()
"""Every folder that a finder of this process has put on sys.path, which all finders share."""


class Unusable(Exception):
    """A named object can't be used. The error has the reason and the fix, and becomes a Problem or AgentNotLoadable."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix


class Finder:
    """Finds objects by name, and remembers them."""

    def __init__(self, allowed: Sources) -> None:
        self._allowed = allowed
        self._folders = allowed.folders
        self._found: dict[tuple[str, str], Any] = {}

    def find(self, reference: str, *, what: str, group: str, built_in: Mapping[str, str]) -> Any:
        """The object that `reference` names.

        `what`: the kind of object, for messages; `group`: the entry point group; `built_in`: names → `module:name`.
        Raises Unusable.
        """
        key = (group, reference)
        if key not in self._found:
            self._found[key] = self._look_up(reference, what, group, built_in)
        return self._found[key]

    def _look_up(self, reference: str, what: str, group: str, built_in: Mapping[str, str]) -> Any:
        if ":" in reference:
            module, _, name = reference.partition(":")
            if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
                fix = "Correct it."
                if "-" in module:
                    fix = (
                        f"A module's name can't have a dash: rename the file, as in {module.replace('-', '_')}:{name}."
                    )
                raise Unusable(f"{what} {reference!r} is not of the form package.module:name", fix)
            if module.endswith(".py"):
                fix = f"Write {module.removesuffix('.py')}:{name}."
                raise Unusable(f"{what} {reference!r} names a file, where a module is wanted", fix)
            if sources.is_ours(module):
                return _attribute(self._own(module, what, reference, built_in), name, what, reference)
            check = functools.partial(self._check_origin, built_in, what, reference)
            return _attribute(self._beside(module, what, reference), name, what, reference, check)
        if target := built_in.get(reference):
            module, _, name = target.partition(":")
            return getattr(_import(module, what, reference), name)
        offered = _entry_points(group)
        if target := offered.get(reference):
            module, _, name = target.partition(":")
            return _attribute(_import(module, what, reference), name, what, reference)
        known = sorted({*built_in, *offered})
        fix = f"Use one of {', '.join(known)}, or name your own as package.module:name."
        if "." in reference:
            module, _, name = reference.rpartition(".")
            fix = f"Write {module}:{name}, with a colon before the name."
        raise Unusable(f"there is no {what} {reference!r}{suggest(reference, known)}", fix)

    def _own(self, module: str, what: str, reference: str, built_in: Mapping[str, str]) -> ModuleType:
        if reference not in built_in.values():
            raise _internal(f"{what} {reference!r} is", built_in)
        return _import(module, what, reference)

    def _beside(self, module: str, what: str, reference: str) -> ModuleType:
        """Import a module, from one of `folders` if it has it, and make sure that Python took it from there."""
        ours = self._allowed.files(module)
        if len(ours) > 1:
            raise _ambiguous(what, reference, ours[0], ours[1])
        if not ours and sources.is_standard(module):
            raise _standard(f"{what} {reference!r} is a part of Python itself")
        self._make_importable()
        allowed = bool(ours) or self._allowed.allows(module, reference)
        if not allowed and sources.is_installed(module):
            raise self._foreign(f"{what} {reference!r}: module {module!r} is in no folder of the crew's", module)
        try:
            if not allowed:
                raise _Absent("", "")
            loaded = _import(module, what, reference)
        except _Absent:
            places = ", ".join(str(folder) for folder in self._folders)
            near = suggest(module, [path.stem for folder in self._folders for path in folder.glob("*.py")])
            file = Path(*module.split(".")).with_suffix(".py")
            raise Unusable(
                f"{what} {reference!r}: there is no module {module!r}{near}",
                (f"Put {file} into {places}, or" if places else "Correct the name, or")
                + " install the package that has it.",
            ) from None
        actual = Path(getattr(loaded, "__file__", None) or f"Python's own {module}")
        if ours and not sources.same(ours[0], actual):
            raise _ambiguous(what, reference, ours[0], actual)
        self._check_siblings(what, reference)
        return loaded

    def _make_importable(self) -> None:
        for folder in reversed(self._folders):
            if str(folder) not in sys.path:
                sys.path.insert(0, str(folder))
        _beside_yaml.update(self._folders)
        importlib.invalidate_caches()

    def _check_siblings(self, what: str, reference: str) -> None:
        """Refuse a module that imported another one (`import helpers`) from the folder of another crew."""
        for folder in self._folders:
            for path in (*folder.glob("*.py"), *folder.glob("*/__init__.py")):
                name = path.parent.name if path.name == "__init__.py" else path.stem
                actual = Path(getattr(sys.modules.get(name), "__file__", None) or path)
                root = actual.parent.parent if actual.name == "__init__.py" else actual.parent
                if actual != path and root in _beside_yaml and not sources.same(actual, path):
                    raise _ambiguous(what, reference, actual, path)

    def _check_origin(self, built_in: Mapping[str, str], what: str, reference: str, found: Any) -> None:
        """Refuse an object that was defined in a module that is not allowed. Raises Unusable.

        A module's names include those that it has imported, for example `subprocess`.
        """
        module = sources.origin(found)
        if module is None:
            raise _standard(f"{what} {reference!r}: nothing tells which module defines it")
        if self._allowed.allows(module, reference):
            return
        if sources.is_ours(module):
            if module in {target.partition(":")[0] for target in built_in.values()}:
                return
            raise _internal(f"{what} {reference!r} comes from {module},", built_in)
        if sources.is_standard(module):
            raise _standard(f"{what} {reference!r} comes from {module}, a part of Python itself")
        raise self._foreign(
            f"{what} {reference!r} comes from the module {module!r}, not from the crew's folders", module
        )

    def _foreign(self, reason: str, module: str) -> Unusable:
        places = " or ".join(str(folder) for folder in self._folders) or "a folder of the crew's"
        setting = f"{sources.SETTING}={','.join((*self._allowed.modules, module))}"
        return Unusable(
            f"{reason}, and this worker may load nothing else",
            f"Define it in a module in {places}, or set {setting} in the worker's environment "
            "(in its image, or workers.allowModules of the chart).",
        )


def _attribute(
    module: ModuleType, name: str, what: str, reference: str, check: Callable[[Any], None] | None = None
) -> Any:
    """The attribute of that dotted name. `check` is called with each object on the way, and with a callable result."""
    found: Any = module
    parts = name.split(".")
    for i, part in enumerate(parts):
        if i and check:
            if isinstance(found, ModuleType):
                fix = f"Write {found.__name__}:{'.'.join(parts[i:])}"
                raise Unusable(f"{what} {reference!r}: {parts[i - 1]!r} is a module", fix)
            check(found)
        try:
            found = getattr(found, part)
        except AttributeError:
            public = [known for known in dir(found) if not known.startswith("_")]
            where = getattr(module, "__file__", None) or module.__name__
            raise Unusable(
                f"{what} {reference!r}: {where} has no {part!r}{suggest(part, public)}", "Correct the name."
            ) from None
        except Exception as error:  # a stranger's property
            reason = f"{what} {reference!r}: looking up {part!r} fails with {_said(error)}"
            raise Unusable(reason, "Mend it.") from error
    if check and callable(found):
        check(found)
    return found


def suggest(wrong: str, known: Iterable[str]) -> str:
    """A suggestion, ` (did you mean 'x'?)`, if a known name is similar; else empty."""
    listed = list(known)
    folded = {name.casefold(): name for name in reversed(listed)}
    close = difflib.get_close_matches(wrong.casefold(), folded, n=1)
    return f" (did you mean {folded[close[0]]!r}?)" if close else ""


class _Absent(Unusable):
    """A module that is missing itself, and not because of another that it imports."""


def _import(module: str, what: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing and (module == missing or module.startswith(missing + ".")):
            raise _Absent(
                f"{what} {reference!r}: there is no module {module!r}", "Install the package that has it."
            ) from error
        if module.startswith("watchbill.") and (extra := _EXTRAS.get(missing.partition(".")[0])):
            raise Unusable(
                f"{what} {reference!r} needs {missing!r}, which is not installed",
                install(extra),
            ) from error
        raise _broken(module, what, reference, error, f"Install {missing!r}, or mend the import.") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a stranger's module does when it is imported
        raise _broken(module, what, reference, error, "Mend the module.") from error


def hiding(error: BaseException, *names: str) -> tuple[str, str] | None:
    """Reason and fix if an import failed because a file beside a YAML file hides a library of the same name.

    The library is one of `names`, or one that the error or its causes name.
    """
    wanted = list(names)
    for _ in range(_CAUSES):
        if isinstance(error, ImportError) and error.name:
            wanted.append(error.name)
        if (cause := error.__cause__ or error.__context__) is None:
            break
        error = cause
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() not in _beside_yaml]
    for name in dict.fromkeys(name.partition(".")[0] for name in wanted):
        for folder in _beside_yaml:
            for path in (folder / f"{name}.py", folder / name / "__init__.py"):
                if path.is_file() and importlib.machinery.PathFinder.find_spec(name, elsewhere):
                    reason = f"{path} has the name of the library {name!r}, and is imported in its place"
                    return reason, "Rename the file."
    return None


def _broken(module: str, what: str, reference: str, error: BaseException, fix: str) -> Unusable:
    if hidden := hiding(error, module):
        return Unusable(f"{what} {reference!r}: {hidden[0]}", hidden[1])
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({error.filename}:{error.lineno})"
    else:
        # The innermost frame that isn't the import system's own: where the module's author has to look.
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
        where = f" ({frames[-1].filename}:{frames[-1].lineno})" if len(frames) > 2 else ""
    return Unusable(f"{what} {reference!r}: importing {module!r} fails with {_said(error)}{where}", fix)


def _said(error: BaseException) -> str:
    with suppress(BaseException):  # not all can say what they are
        return f"{type(error).__name__}: {error}"
    return type(error).__name__


def _internal(reason: str, built_in: Iterable[str]) -> Unusable:
    fix = f"Use one of {', '.join(built_in)}, or name your own as package.module:name."
    return Unusable(f"{reason} a part of Watchbill that no crew may name", fix)


def _standard(reason: str) -> Unusable:
    fix = "Name a function or class of your own that uses it."
    return Unusable(f"{reason}, and a crew may name no such thing", fix)


def _ambiguous(what: str, reference: str, one: Path, other: Path) -> Unusable:
    return Unusable(
        f"{what} {reference!r}: {one} and {other} have the same module name, and Python can load only one of them",
        "Rename one of the files, or run the crews in processes of their own.",
    )


def _entry_points(group: str) -> dict[str, str]:
    from importlib.metadata import entry_points  # costs 20 ms, and most crews name nothing of the kind

    return {point.name: f"{point.module}:{point.attr}" for point in entry_points(group=group)}
