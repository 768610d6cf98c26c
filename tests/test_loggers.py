"""A logger of ours raises nothing, whatever an agent's module has put into Python's logging."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from watchbill.loggers import Logger

pytestmark = pytest.mark.pure


def breaks(*_: Any, **__: Any) -> Any:
    raise LookupError("a context variable")


class Broken(logging.Handler):
    handle = breaks


@pytest.mark.parametrize("fault", ["factory", "filter", "handler"])
def test_a_line_that_cannot_be_logged_is_told_of_on_stderr_without_what_it_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fault: str
) -> None:
    source = logging.getLogger("watchbill.tests")
    monkeypatch.setattr(source, "propagate", False)
    if fault == "factory":
        monkeypatch.setattr(logging, "_logRecordFactory", breaks)
    monkeypatch.setattr(source, "filters", [breaks] if fault == "filter" else [])
    monkeypatch.setattr(source, "handlers", [Broken() if fault == "handler" else logging.NullHandler()])
    logger = Logger("watchbill.tests")
    logger.warning("the key is %s", "hunter2-hunter2")
    try:
        raise ValueError("hunter2-hunter2")
    except ValueError:
        logger.exception("it failed")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("watchbill.tests: a line could not be logged: LookupError at ")
    assert "test_loggers.py:" in lines[0]
    assert "hunter2" not in "".join(lines)


def test_a_line_is_logged_as_of_who_logged_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "watchbill.tests"):
        logger = Logger("watchbill.tests")
        for method in (logger.debug, logger.info, logger.warning, logger.error):
            method("%d and %s", 1, "two")
    assert [record.levelname for record in caplog.records] == ["DEBUG", "INFO", "WARNING", "ERROR"]
    assert {(record.getMessage(), record.name) for record in caplog.records} == {("1 and two", "watchbill.tests")}
    assert {record.funcName for record in caplog.records} == {"test_a_line_is_logged_as_of_who_logged_it"}
