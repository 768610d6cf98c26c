"""Manifests to begin with, and what reading them gives."""

from __future__ import annotations

from textwrap import dedent

import pytest

from watchbill.api.parse import Parsed, parse
from watchbill.errors import InvalidInput, Problem

CREW = """\
apiVersion: watchbill.dev/v1alpha1
kind: Crew
metadata:
  name: blog-team
spec:
  model: openai:gpt-5-mini
  agents:
    - name: researcher
    - name: writer
"""

HEARTBEAT = """\
apiVersion: watchbill.dev/v1alpha1
kind: Heartbeat
metadata:
  name: morning
spec:
  crewRef: {name: blog-team}
  schedule: "0 9 * * 1-5"
  prompt: Write.
"""


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(InvalidInput) as caught:
        parse(dedent(text), "crew.yaml")
    return caught.value.problems


def only(text: str) -> Problem:
    (problem,) = problems(text)
    return problem


def places(text: str) -> list[tuple[str, str]]:
    return [(problem.source, problem.path) for problem in problems(text)]


def read(text: str) -> Parsed:
    return parse(dedent(text), "crew.yaml")
