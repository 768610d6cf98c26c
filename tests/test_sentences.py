"""Messages that are put together of sentences: each sentence ends once, whatever the parts are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchbill.errors import InvalidInput, Problem, sentence

pytestmark = pytest.mark.pure

PRODUCT = Path(__file__).resolve().parents[1] / "operator" / "watchbill"
TEXTS = re.compile(r"\b(error|errors|failure|reason|reasons|said|msg|message|what|why|problem|fault|fix)\b")
"""Names of variables that hold a text of another message, which may have an end already."""
COPIED = re.compile(r"\S*[/=]\S*$")
"""An address or an option at the end, which people copy: a full stop would be copied with it."""
ENDS = (".", "?", "!", "…", ":", "\n")


def calls(*names: str) -> Iterator[tuple[str, ast.Call]]:
    """Where each call of a function or method with such a name is, and the call."""
    for path in sorted(PRODUCT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in names:
                    yield f"{path.relative_to(PRODUCT)}:{node.lineno}", node


def end_of(node: ast.AST) -> str:
    """The literal end of a text; empty where it ends with a value."""
    match node:
        case ast.Constant(value=str(text)) | ast.JoinedStr(values=[*_, ast.Constant(value=str(text))]):
            return text
    return ""


def texts_of(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.IfExp):
        yield from texts_of(node.body)
        yield from texts_of(node.orelse)
    else:
        yield node


def is_whole(part: ast.FormattedValue, assigned: dict[str, list[ast.AST]]) -> bool:
    """Whether a value that a full stop follows can't end with one: quotes stand around it, it is no text, or it is put
    together in this file and has no end."""
    shown = ast.unparse(part.value)
    if part.conversion == ord("r") or shown.startswith("repr(") or not TEXTS.search(shown):
        return True
    texts = [text for value in assigned.get(shown, []) for text in texts_of(value)]
    return bool(texts) and all(has_no_end(text, assigned) for text in texts)


def has_no_end(text: ast.AST, assigned: dict[str, list[ast.AST]]) -> bool:
    match text:
        case ast.JoinedStr(values=[*_, ast.FormattedValue() as last]):
            return is_whole(last, assigned)
    return bool(end_of(text)) and not end_of(text).endswith(ENDS)


def composed(file: Path) -> Iterator[tuple[str, ast.FormattedValue]]:
    """Values of a file's texts that a full stop follows, and that may have one."""
    tree = ast.parse(file.read_text())
    assigned: dict[str, list[ast.AST]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                assigned.setdefault(ast.unparse(target), []).append(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for part, after in zip(node.values, node.values[1:], strict=False):
                if not isinstance(part, ast.FormattedValue) or not isinstance(after, ast.Constant):
                    continue
                is_ended = str(after.value).startswith((". ", ".\n")) or after.value == "."
                if is_ended and not is_whole(part, assigned):
                    yield f"{file.relative_to(PRODUCT)}:{part.lineno}", part


def test_no_message_puts_a_full_stop_behind_another_message() -> None:
    """`sentence(error)` ends it once."""
    files = [file for file in sorted(PRODUCT.rglob("*.py")) if file.name != "errors.py"]  # where `sentence` is
    assert [f"{where}: {ast.unparse(part)}" for file in files for where, part in composed(file)] == []


def test_a_reason_has_no_full_stop_and_a_fix_has_one() -> None:
    wrong = []
    count = 0
    for where, node in calls("Problem", "refuse"):
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        reason, fix = (*node.args[:2], given.get("reason"), given.get("fix"))[:2]
        count += 1
        if reason is not None and end_of(reason).endswith(ENDS):
            wrong.append(f"{where}: {end_of(reason)[-40:]!r}")
        if fix is not None and end_of(fix) and not end_of(fix).endswith(ENDS) and not COPIED.search(end_of(fix)):
            wrong.append(f"{where}: {end_of(fix)[-40:]!r}")
    assert count > 100
    assert wrong == []


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("it is taken", "it is taken. Correct it."),
        ("Choose another name.", "Choose another name. Correct it."),
        ("is it?", "is it? Correct it."),
        ("it goes on …", "it goes on … Correct it."),
        ("'a.'", "'a.'. Correct it."),
        ("it ends \n", "it ends. Correct it."),
    ],
)
def test_a_problem_has_one_full_stop_between_its_sentences(reason: str, said: str) -> None:
    assert str(Problem(reason, "Correct it.")) == said
    assert str(Problem(reason, "Correct it.", path="a", source="b")) == f"b: a: {said}"
    assert str(InvalidInput(Problem(reason, "Correct it.", path="a"))) == f"a: {said}"
    assert sentence(ValueError(reason)) == said.removesuffix(" Correct it.")
