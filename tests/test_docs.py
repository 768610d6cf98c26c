"""Guides name only files and functions that exist, and every link between pages leads somewhere.

When a rename fails here, the page named by the failure needs the new name.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[1]
PRODUCT = ROOT / "operator" / "watchbill"
GUIDES = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md", *sorted((ROOT / "docs" / "design").glob("*.md"))]
PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    ROOT / "charts" / "watchbill" / "README.md",
    ROOT / "charts" / "crew" / "README.md",
    ROOT / "CONTRIBUTING.md",
]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
PAGES += [page for page in sorted((ROOT / "examples").rglob("*.md")) if page.name == "README.md"]
WRITTEN = [page for page in PAGES if page.parent.name != "reference"]
"""By hand: the others are rendered."""
SPAN = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"[\w.-]*(?:/[\w.-]+)*(?:/|\.(?:py|lua|md|toml|yaml|tpl))")
PLACE = re.compile(r"([\w/.-]+\.(?:py|lua)):([A-Za-z_][\w.]*)")
MEMBER = re.compile(r"([A-Z]\w*[a-z]\w*)\.(\w+)")
DOTTED = re.compile(r"(?:watchbill\.)?((?:[a-z_]+\.)+\w+)")
FOLDERS = ("operator", "tests", "docs", "e2e", "bench", "charts", "crds", "examples")


@functools.cache
def tree() -> list[str]:
    """Every file and folder, as `/a/b`, folders with a slash behind."""
    found = [path for top in FOLDERS for path in (ROOT / top).rglob("*") if "__pycache__" not in path.parts]
    found += [ROOT / top for top in FOLDERS] + [path for path in ROOT.glob("*") if path.is_file()]
    return [f"/{path.relative_to(ROOT).as_posix()}" + "/" * path.is_dir() for path in found]


def exists(name: str) -> bool:
    """Whether this is the end of a path: pages leave out `operator/watchbill/`, and a folder that they speak of."""
    return any(path.endswith(f"/{name}") for path in tree())


def names_in(path: Path) -> set[str]:
    """Functions, classes, methods and constants of a Python file; functions of a Lua file."""
    text = path.read_text()
    if path.suffix == ".lua":
        return set(re.findall(r"function (\w+)", text))
    names: set[str] = set()

    def add(body: list[ast.stmt], owner: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(owner + node.name)
            if isinstance(node, ast.ClassDef):
                add(node.body, f"{owner}{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names.update(owner + target.id for target in targets if isinstance(target, ast.Name))

    add(ast.parse(text).body, "")
    return names


def has(file: str, name: str) -> bool:
    return any(name in names_in(ROOT / path[1:]) for path in tree() if path.endswith(f"/{file}"))


def has_dotted(dotted: str) -> bool:
    """`plan.retry.pause`, or a module."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        module = PRODUCT.joinpath(*parts[:n])
        file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
        if file.is_file():
            rest = ".".join(parts[n:])
            return not rest or rest in names_in(file) or f"{rest.split('.')[0]}" in file.read_text()
    return False


@functools.cache
def product() -> list[str]:
    return [path.read_text() for path in PRODUCT.rglob("*.py")]


def has_member(owner: str, name: str) -> bool:
    """Whether a file of the product has a class of this name, and speaks of such an attribute."""
    return any(re.search(rf"^class {owner}\b", text, re.M) and re.search(rf"\b{name}\b", text) for text in product())


def wrong(text: str) -> list[str]:
    """Spans of code that name a file, a folder or a name in it that isn't there."""
    missing = []
    for span in dict.fromkeys(SPAN.findall(text)):
        place, member, dotted = PLACE.fullmatch(span), MEMBER.fullmatch(span), DOTTED.fullmatch(span)
        if place:
            fine = has(place[1], place[2])
        elif FILE.fullmatch(span):
            fine = exists(span)
        elif member:
            fine = has_member(member[1], member[2])
        elif dotted and exists(f"operator/watchbill/{dotted[1].split('.')[0]}/"):
            fine = has_dotted(dotted[1])
        else:
            continue
        if not fine:
            missing.append(span)
    return missing


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_what_a_guide_names_is_there(page: Path) -> None:
    text = page.read_text()

    assert "`" in text
    assert wrong(text) == [], f"{page.name} names what isn't there (any more)"


def test_the_map_of_the_readme_names_what_is_there() -> None:
    _, found, rest = (ROOT / "README.md").read_text().partition("## Where things are\n")

    assert found
    assert wrong(rest) == []


def test_names_that_are_not_there_are_found() -> None:
    there = "`plan/retry.py:pause`, `store/scripts/lib_runs.lua:advance`, `plan/`, `queue.md`, `Jobs.stop`"
    assert wrong(there + ", `watchbill.plan.retry.pause`, `tasks.maxResults`, `--help`") == []
    assert wrong(
        "`plan/retry.py:gone`, `lib_runs.lua:pause`, `plans/`, `queues.md`, `plan.retry.gone`, `Jobs.vanished`"
    ) == [
        "plan/retry.py:gone",
        "lib_runs.lua:pause",
        "plans/",
        "queues.md",
        "plan.retry.gone",
        "Jobs.vanished",
    ]


def options() -> dict[str, set[str]]:
    """Command → its options, as the rendered reference has them; `dead list` is a command, too."""
    sections = re.split(r"^#+ `watchbill ?(.*)`$", (ROOT / "docs/reference/cli.md").read_text(), flags=re.MULTILINE)
    return {
        name: set(re.findall(r"--[a-z-]+", "".join(re.findall(r"^\* `-.*?`:", text, re.MULTILINE))))
        for name, text in zip(sections[1::2], sections[2::2], strict=True)
    }


def wrong_commands(text: str) -> list[str]:
    """Spans and lines of code that name a command of watchbill, or an option of one, that isn't there."""
    known, missing = options(), []
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for code in lines + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]:
        for asked in re.findall(r"(?:^|-- |[;|&] )watchbill ([a-z][^#;&<]*)", code):
            command, *rest = asked.split()
            for name in (
                [f"dead {sub}" for sub in rest[0].split("|")] if command == "dead" and rest else command.split("|")
            ):
                allowed = known.get(name)
                if allowed is None or not set(re.findall(r"(?<!\S)--[a-z-]+", asked)) <= allowed:
                    missing.append(f"watchbill {asked.strip()}")
    return missing


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_and_setting_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    settings = set(re.findall(r"WATCHBILL_[A-Z_]+", (ROOT / "docs/reference/settings.md").read_text()))

    assert wrong_commands(text) == []
    assert set(re.findall(r"WATCHBILL_[A-Z_]+", text)) - settings == set()


def test_commands_that_are_not_there_are_found() -> None:
    fine = "`watchbill run FILE --watch`, `kubectl exec -- watchbill submit x --wait`, `watchbill dead list|show x`"
    assert wrong_commands(fine) == []
    assert wrong_commands("`watchbill walk x`, `watchbill run x --wait`, `watchbill dead list|bury x`") == [
        "watchbill walk x",
        "watchbill run x --wait",
        "watchbill dead list|bury x",
    ]


def test_every_link_between_pages_leads_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\"]*)(?:#([^)]*))?\)", page.read_text()):
            to = page.parent / target if target else page
            if not to.exists() or (anchor and anchor not in anchors(to)):
                broken.append(f"{page.name}: {target}#{anchor}")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Headings as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pages_that_promise_to_be_short_are() -> None:
    lines = {name: len((ROOT / name).read_text().splitlines()) for name in ("README.md", "docs/design/words.md")}

    assert lines["README.md"] < 200
    assert lines["docs/design/words.md"] <= 45
