"""What is said of each fault, word by word, beside those that other files tell of."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field
from reading import CREW, HEARTBEAT, places, problems, read

from watchbill.api import Crew
from watchbill.api import problems as words
from watchbill.api.meta import refuse_reserved

pytestmark = pytest.mark.pure

CLASSLESS = CREW.replace("  model: openai:gpt-5-mini\n", "")
INTERVAL = HEARTBEAT.replace('schedule: "0 9 * * 1-5"', "intervalSeconds: 60")
FLOW = CREW + "  executionMode: flow\n  flowRelations:\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            HEARTBEAT.replace('  schedule: "0 9 * * 1-5"\n', ""),
            "spec.schedule: neither schedule nor intervalSeconds is given, so it would never fire. "
            "Add schedule (as in '0 9 * * 1-5') or intervalSeconds.",
        ),
        (
            INTERVAL + "  timeZone: Europe/Berlin\n",
            "spec.timeZone: timeZone means nothing without schedule. "
            "Remove it, or use schedule instead of intervalSeconds.",
        ),
        (
            HEARTBEAT + "  inputs: {9a: x}\n",
            "spec.inputs: '9a' can't be the name of an input. "
            "Use a letter, then letters, digits, - and _ (63 at most).",
        ),
        (
            CLASSLESS.replace("- name: writer", "- {name: writer, class: C}"),
            "spec.agents[0].class: agent 'researcher' has neither a class nor a model, so nothing could run it. "
            "Give it a class, or a model (its own, or spec.model for all agents).",
        ),
        (
            CLASSLESS.replace("- name: writer", "- {name: writer, class: LLMAgent}").replace(
                "name: researcher", "{name: researcher, class: C}"
            ),
            "spec.agents[1].model: agent 'writer' is an LLMAgent and has no model. "
            "Give it a model (its own, or spec.model for all agents).",
        ),
        (
            CREW + "  flowRelations: [{source: [researcher], target: [writer]}]\n",
            "spec.flowRelations: flowRelations mean nothing in executionMode 'sequential'. "
            "Set executionMode: flow, or remove flowRelations.",
        ),
        (
            FLOW + "  - {source: [researcher], target: [writer, writer]}\n",
            "spec.flowRelations[0].target[1]: agent 'writer' is listed twice. Remove one of the two.",
        ),
        (
            FLOW + "  - {source: [writer, writer], target: [researcher]}\n",
            "spec.flowRelations[0].source[1]: agent 'writer' is listed twice. Remove one of the two.",
        ),
        (
            CREW + "      baseURL: https://me@h/v1\n",
            "spec.agents[1].baseURL: baseURL has a user or password in it, which whoever may read the crew would see. "
            "Remove it: the key belongs into the workers' environment.",
        ),
        (
            CREW + "  sharedTools: [a, b, b]\n",
            "spec.sharedTools: 'b' is listed twice. Remove entry [2].",
        ),
        (
            CREW + "  workers: {envFrom: [{prefix: a}]}\n",
            "spec.workers.envFrom[0].secretRef: give exactly one of secretRef and configMapRef. "
            "Remove one, or add one.",
        ),
        (
            CREW + "      timeoutSeconds: 1e30\n",
            "spec.agents[1].timeoutSeconds: 1e+30 is a number, where a whole number is expected. Write a whole number.",
        ),
        (
            CREW + "  tasks: [a]\n",
            "spec.tasks: ['a'] is a list, where a mapping of names to values is expected. "
            "Write a mapping of names to values.",
        ),
        (
            CREW + "  sharedTools: {a: b}\n",
            "spec.sharedTools: {'a': 'b'} is a mapping, where a list is expected. Write a list.",
        ),
        (
            CREW + f"  sharedTools: {'x' * 81}\n",
            f"spec.sharedTools: '{'x' * 37}...{'x' * 38}' is text, where a list is expected. Write a list: […].",
        ),
        (
            CREW + f"  sharedTools: {'x' * 80}\n",
            f"spec.sharedTools: '{'x' * 37}...{'x' * 38}' is text, where a list is expected. "
            f"Write a list: [{'x' * 80}].",
        ),
        (
            HEARTBEAT + "  suspend: 'yes'\n",
            "spec.suspend: 'yes' is text, where true or false is expected. Write true or false, without quotes.",
        ),
        (
            HEARTBEAT + "  metadata: x\n",
            "spec.metadata: 'x' is text, where a mapping of names to values is expected. "
            "Write a mapping of names to values.",
        ),
        (
            HEARTBEAT.replace('"0 9 * * 1-5"', '""'),
            "spec.schedule: the text is empty. Write five fields, as in '0 9 * * 1-5'.",
        ),
        (
            CREW + "  workers: {redisSecretRef: {name: ''}}\n",
            "spec.workers.redisSecretRef.name: the text is empty. Write something, or remove the field.",
        ),
        (
            CREW + f"  workers: {{image: {'i' * 513}}}\n",
            "spec.workers.image: the text has 513 characters, and at most 512 are possible. Shorten it to 512.",
        ),
        (
            CREW[: CREW.index("    - name")] + "    []\n",
            "spec.agents: there is no entry, and at least one is needed. Add one.",
        ),
        (
            CREW.replace("name: blog-team", "name: blog-team\n  namespace: A"),
            "metadata.namespace: 'A' does not have the right form. Write it to match ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$.",
        ),
        (
            CREW.replace("name: blog-team", "name: blog-team\n  labels: {a b: x}"),
            "metadata.labels.a b: 'a b' can't be the name of a label. Use letters, digits, dashes, dots and "
            "underscores, at most 63, beginning and ending with a letter or a digit; before it there may be a domain "
            "in lower-case letters, and a slash.",
        ),
        (
            CREW.replace("name: blog-team", "name: blog-team\n  labels: {a: -x}"),
            "metadata.labels.a: '-x' can't be the value of a label. Use letters, digits, dashes, dots and underscores, "
            "at most 63, beginning and ending with a letter or a digit; or an annotation.",
        ),
        (
            CREW.replace("name: blog-team", "name: blog-team\n  annotations: {a b: x}"),
            "metadata.annotations.a b: 'a b' can't be the name of an annotation. Use letters, digits, dashes, dots and "
            "underscores, at most 63, beginning and ending with a letter or a digit; before it there may be a domain "
            "in lower-case letters, and a slash.",
        ),
        (
            HEARTBEAT.replace("Write.", "\u00e9" * (128 * 1024 + 1)),
            "spec.prompt: the text has 262146 bytes, and at most 262144 are possible. "
            "Shorten it; larger text belongs into an input, or where a tool can read it.",
        ),
        ("5\n", "5 is not a resource. Write a mapping with apiVersion, kind, metadata and spec."),
        ("", "there is nothing in it. Write a Crew: apiVersion, kind, metadata and spec."),
        (
            f"{CREW}---\n{CREW}",
            "metadata.name: two Crews are called 'blog-team'; the first is at line 4. Give each a name of its own.",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_place_its_reason_and_its_fix(text: str, told: str) -> None:
    assert [str(problem).partition(": ")[2] for problem in problems(text)] == [told]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "a: [b:[c]]\n",
            "1: a colon with no space behind it belongs to the text before it. Put a space behind the colon.",
        ),
        ("a: !x y\n", "1: the tag !x is not known. Remove it, or put the whole text into quotes."),
        ("a: 1\nb: &x [*x]\n", "2: the value at line 2 contains itself. Remove the alias (*name) that refers to it."),
        ("[" * 5000, "1: this is nested too deeply. Nest it less."),
        (
            "a: \x07\n",
            "1: the character U+0007 may not stand in YAML. Remove it, or write it as \\x.. within double quotes.",
        ),
        (
            'a: b\nc: "\\UFFFFFFFF"\n',
            "2: this is not YAML that can be read: there is no such character. "
            "Write \\U and the eight digits of one up to 0010FFFF.",
        ),
        (
            "a: !!int x\n",
            "1: this is not YAML that can be read: 'x' is not what its tag !!int says, at column 4. Put text that "
            "contains ': ' or begins with one of { [ & * ! | > % @ ` into quotes, and indent by spaces only.",
        ),
        (f"{CREW}--- x # y\n", "10: 'x # y' stands in the line of ---. Put it into the next line."),
        (
            f"a: [{'1, ' * 5001}]\n",
            "1: this list has more than 5000 entries. Write fewer; keep large data in a file of its own.",
        ),
        (
            f"a:\n{''.join(f'  k{n}: 1{chr(10)}' for n in range(5001))}",
            "5002: this map has more than 5000 entries. Write fewer; keep large data in a file of its own.",
        ),
    ],
    ids=range(10),
)  # fmt: skip
def test_text_that_can_not_be_read_is_told_with_its_line_its_reason_and_its_fix(text: str, told: str) -> None:
    assert [str(problem) for problem in problems(text)] == [f"crew.yaml:{told}"]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("{x: .inf}", "spec.agents[1].config.x: there is no number .inf in JSON. Put it in quotes, if text is meant."),
        (
            r'{x: "\ud800"}',
            r"spec.agents[1].config.x: '\ud800' is half a character. "
            r"Write the character itself, or \U and its eight digits within double quotes.",
        ),
        (
            r'{"\ud800": x}',
            r"spec.agents[1].config: the key '\ud800' has half a character. Write the character itself.",
        ),
        ("{1: x}", "spec.agents[1].config.1: the key 1 is not text. Put it in quotes."),
        ("{a: x, a: y}", "spec.agents[1].config.a: the key 'a' is given twice, first at line 10. Keep one of the two."),
        (
            "{a: x, <<: {a: y}}",
            "spec.agents[1].config.a: the key 'a' is given before << brings it once more, and not all tools take the "
            "same. Put << before every other key.",
        ),
    ],
)
def test_what_yaml_allows_and_json_does_not_is_told_with_its_place(written: str, told: str) -> None:
    (problem,) = problems(CREW + f"      config: {written}\n")
    assert str(problem).endswith(told)
    assert problem.source == "crew.yaml:10"


def listed(name: str, entries: int) -> str:
    return f"apiVersion: watchbill.dev/v1alpha1\nkind: Crew\nspec:\n  {name}: [{', '.join(['{}'] * entries)}]\n"


@pytest.mark.parametrize(("name", "limit"), [("agents", 100), ("flowRelations", 200)])
def test_a_list_is_looked_at_one_by_one_up_to_five_times_its_bound(name: str, limit: int) -> None:
    told = problems(listed(name, 5 * limit + 1))
    assert [(p.path, p.reason, p.fix) for p in told] == [
        (
            f"spec.{name}",
            f"there are {5 * limit + 1} entries, and at most {limit} are possible",
            f"Leave {limit} or fewer.",
        )
    ]
    assert len(problems(listed(name, 5 * limit))) > 1


@pytest.mark.parametrize("written", ["spec: 5", "spec: {agents: 5}", "spec:"])
def test_a_spec_of_another_kind_is_told_once(written: str) -> None:
    assert len(problems(f"apiVersion: watchbill.dev/v1alpha1\nkind: Crew\nmetadata: {{name: c}}\n{written}\n")) == 1


def test_a_faulty_field_hides_no_fault_elsewhere_unless_a_rule_would_read_it() -> None:
    broken = "  flowRelations: [{source: [researcher], target: [writer]}]\n"
    for fault, path in (
        ("  description: 5\n", "spec.description"),
        ("  descripton: x\n", "spec.descripton"),
        ("  sharedTools: [1]\n", "spec.sharedTools[0]"),
        ("  tasks: {maxAttempts: 0}\n", "spec.tasks.maxAttempts"),
    ):
        assert [path for _, path in places(CREW + fault + broken)] == [path, "spec.flowRelations"]
    for fault, path in (
        ("  modell: x\n", "spec.modell"),
        ("  executionMode: x\n", "spec.executionMode"),
        ("    - {name: a, clas: x}\n", "spec.agents[2].clas"),
    ):
        assert [path for _, path in places(CREW + fault + broken)] == [path]


def test_nothing_is_where_no_document_says_where() -> None:
    parsed = read(f"{CREW}---\n{HEARTBEAT}")
    stranger = Crew.model_validate({"metadata": {"name": "c"}, "spec": {"agents": [{"name": "a", "class": "E"}]}})
    assert parsed.where(stranger) == "crew.yaml"
    assert parsed.where(parsed.heartbeats[0]) == "crew.yaml:11"
    assert parsed.where(parsed.crews[0], ("spec", "agents", 7, "name")) == "crew.yaml:7"
    assert parsed.where(parsed.crews[0], ("spec", "model", "deeper")) == "crew.yaml:6"


def test_a_name_of_the_records_is_refused_with_what_to_do() -> None:
    refuse_reserved(Crew, "listing")
    for name in ("id", "list", "tenants"):
        with pytest.raises(ValueError, match="reserved") as refused:
            refuse_reserved(Crew, name)
        (finding,) = words.explain(Crew, refused.value)  # type: ignore[arg-type]
        assert finding == (
            ("metadata", "name"),
            f"{name!r} is reserved for an index of the records",
            "Choose another name than id, list, tenants.",
        )


class Inner(BaseModel):
    number: float = Field(default=1.0, gt=0, multiple_of=0.5, description="A number.")


class Outer(BaseModel):
    inner: list[Inner]
    maybe: Inner | None = None
    said: dict[str, Inner] = {}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            {"inner": [{"number": 0}]},
            [("inner[0].number", "this should be greater than 0, and is 0", "Correct the value.")],
        ),
        (
            {"inner": [], "maybe": {"number": 0.7}},
            [("maybe.number", "this should be a multiple of 0.5, and is 0.7", "Correct the value.")],
        ),
        ({}, [("inner", "'inner' is missing", "Add 'inner': ")]),
    ],
)
def test_what_pydantic_says_by_itself_is_said_in_our_form(value: Any, told: list[tuple[str, str, str]]) -> None:
    with pytest.raises(ValueError) as refused:
        Outer.model_validate(value)
    assert [(f.path, f.reason, f.fix) for f in words.explain(Outer, refused.value)] == told  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loc", "model", "description"),
    [
        ((), Outer, None),
        (("inner",), Inner, None),
        (("inner", 0), Inner, None),
        (("inner", 0, "number"), None, "A number."),
        (("maybe", "number"), None, "A number."),
        (("nothing",), None, None),
        (("nothing", "number"), None, None),
    ],
)
def test_a_place_leads_to_its_model_and_field(loc: words.Loc, model: Any, description: str | None) -> None:
    assert words.model_at(Outer, loc) is model
    field = words.field_at(Outer, loc)
    assert (field.description if field else None) == description


@pytest.mark.parametrize(
    ("name", "known", "meant", "sentence"),
    [
        ("writter", ["reader", "writer"], "writer", "Write 'writer', or another of: reader, writer."),
        ("WRITER", ["Writer"], "Writer", "Write 'Writer'."),
        ("xyz", ["reader", "writer"], None, "Use one of: reader, writer."),
        ("abcd", ["abxy"], None, "Use one of: abxy."),
        (5, ["5"], "5", "Write '5'."),
    ],
)
def test_the_name_that_was_probably_meant_is_suggested(
    name: Any, known: list[str], meant: str | None, sentence: str
) -> None:
    assert words.nearest(name, iter(known)) == meant
    assert words.suggest(name, iter(known)) == sentence


def test_a_value_is_quoted_in_one_line_at_most() -> None:
    assert words.quote("x" * 78) == repr("x" * 78)
    assert len(words.quote("x" * 79)) == len(words.quote(Outer(inner=[Inner()] * 9))) == 80
    assert len(words.quote(["x" * 500] * 500)) < 600
