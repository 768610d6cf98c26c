"""What a step is asked."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from watchbill.plan import prompts, values
from watchbill.records import CrewDefinition

pytestmark = pytest.mark.pure

OF_A_HEARTBEAT = "Only a Heartbeat knows it: write {NAME} in the Heartbeat's prompt, and cite that as {input}."


def crew(mode: str, relations: list[tuple[Any, Any]] | None = None, **templates: str | None) -> CrewDefinition:
    return CrewDefinition.model_validate(
        {
            "name": "c",
            "execution_mode": mode,
            "agents": [{"agent_id": name, "prompt": prompt} for name, prompt in templates.items()],
            "flow_relations": [{"source": s, "target": t} for s, t in relations or []],
        }
    )


def composed(template: str | None, **outputs: Any) -> str:
    return prompts.compose(template, "PROMPT", {"log": "LOG", "a-b_2": "OTHER"}, outputs)


# references


def test_references_are_found_once_each_in_order() -> None:
    template = "{inputs.b} {input} {steps.x.y-z} {inputs.a} {inputs.b} {steps.w} {steps.x.y-z}"
    assert prompts.references(template) == (["b", "a"], ["x.y-z", "w"])


@pytest.mark.parametrize(
    "template",
    [
        "",
        "no braces",
        "{}",
        "{other}",
        "{ input }",
        "{Input}",
        "{input.x}",
        "{inputs}",
        "{inputs.}",
        "{inputs.a b}",
        "{inputs.a.b}",
        "{steps}",
        "{steps.}",
        "{steps.a/b}",
        "{input",
        "input}",
        '{"a": {"b": 1}}',
        "f'{name}' ${var} {0} {!r}",
    ],
)
def test_what_is_no_reference_is_text_and_stays_as_it_is(template: str) -> None:
    assert prompts.references(template) == ([], [])
    assert composed(template) == template


def test_what_is_escaped_is_no_reference() -> None:
    assert prompts.references("{{inputs.a}} {{steps.a}} {{input}}") == ([], [])


# composing


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{input}", "PROMPT"),
        ("{input} and {input}", "PROMPT and PROMPT"),
        ("{inputs.log}|{inputs.a-b_2}", "LOG|OTHER"),
        ("{{input}}", "{input}"),
        ("{{inputs.log}}", "{inputs.log}"),
        ("{{steps.a}}", "{steps.a}"),
        ("{{input}} is {input}", "{input} is PROMPT"),
        ("{{{input}}}", "{{input}}"),
        ("{{input}", "{PROMPT"),
        ("{input}}", "PROMPT}"),
        ('{"q": "{input}", "o": {"x": [{}]}}', '{"q": "PROMPT", "o": {"x": [{}]}}'),
        ('{"log":{inputs.log}}', '{"log":LOG}'),
        ("{ {input} }", "{ PROMPT }"),
    ],
)
def test_a_template_knows_its_references_and_leaves_all_other_braces_alone(template: str, expected: str) -> None:
    assert composed(template) == expected


def test_a_value_that_looks_like_a_reference_is_not_looked_into() -> None:
    value = r"{inputs.log} {{input}} \1 \g<0> {steps.a}"
    assert prompts.compose("<{input}>", value, {"log": "LOG"}, {"a": "A"}) == f"<{value}>"
    assert prompts.compose("<{inputs.log}>", "P", {"log": value}, {}) == f"<{value}>"
    assert prompts.compose("<{steps.a}>", "P", {}, {"a": value}) == f"<{value}>"


def test_a_template_is_followed_to_the_letter_whatever_outputs_there_are() -> None:
    assert composed("Only this.", a="output") == "Only this."
    assert composed("", a="output") == ""


def test_a_reference_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        composed("{inputs.nothing}")
    with pytest.raises(KeyError, match="nobody"):
        composed("{steps.nobody}")


def test_without_a_template_and_outputs_the_prompt_is_asked_as_it_is() -> None:
    assert composed(None) == "PROMPT"
    assert prompts.compose(None, "{input} {inputs.log} {{input}}", {"log": "L"}, {}) == "{input} {inputs.log} {{input}}"


def test_without_a_template_the_outputs_of_the_steps_before_follow_in_full_and_in_order() -> None:
    long = "x" * 5000
    assert composed(None, b=long, a="short") == f"PROMPT\n\nWhat came before:\n\n## b\n\n{long}\n\n## a\n\nshort"


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("plain", "plain"),
        ("", ""),
        ('"quoted"', '"quoted"'),
        (5, "5"),
        (1.5, "1.5"),
        (True, "true"),
        (None, "null"),
        ([], "[]"),
        ({"ü": "é"}, '{\n  "ü": "é"\n}'),
        ([1, {"a": None}], '[\n  1,\n  {\n    "a": null\n  }\n]'),
    ],
)
def test_text_is_put_in_as_it_is_and_everything_else_as_json(output: Any, text: str) -> None:
    assert values.as_text(output) == text
    assert composed("<{steps.a}>", a=output) == f"<{text}>"
    assert composed(None, a=output).endswith(f"## a\n\n{text}")
    if not isinstance(output, str):
        assert json.loads(text) == output


# checking the crew


def test_a_crew_whose_references_are_all_there_has_no_problems() -> None:
    assert prompts.check(crew("sequential", a="{input}", b="{steps.a}", c="{steps.a} {steps.b} {{steps.zz}}")) == []
    assert prompts.check(crew("flow", [("a", "b"), ("b", "c")], a=None, b="{steps.a}", c="{steps.a}")) == []


def test_a_reference_to_an_agent_that_is_not_there_is_named() -> None:
    (problem,) = prompts.check(crew("sequential", a="x", b="{steps.nobody}"))
    assert problem.path == "spec.agents[1].prompt"
    assert problem.reason == "the prompt of agent 'b' cites {steps.nobody}, but no agent is called 'nobody'"
    assert problem.fix == "Use one of: a, b."


@pytest.mark.parametrize(
    ("mode", "relations", "templates"),
    [
        ("sequential", [], {"a": "{steps.b}", "b": None}),
        ("sequential", [], {"b": None, "a": "{steps.a}"}),
        ("parallel", [], {"b": None, "a": "{steps.b}"}),
        ("flow", [], {"b": None, "a": "{steps.b}"}),
        ("flow", [("a", "b")], {"b": None, "a": "{steps.b}"}),
        ("flow", [("c", "a"), ("c", "b")], {"b": None, "a": "{steps.b}", "c": None}),
    ],
)
def test_a_reference_to_a_step_that_has_not_run_by_then_is_named(
    mode: str, relations: list[tuple[Any, Any]], templates: dict[str, str | None]
) -> None:
    (problem,) = prompts.check(crew(mode, relations, **templates))
    assert problem.path.endswith(".prompt")
    assert f"does not run before it in mode {mode}" in problem.reason
    assert problem.fix.startswith("Remove the reference")


def test_every_wrong_reference_is_told() -> None:
    found = prompts.check(crew("sequential", a="{steps.x} {steps.y}", b="{steps.z}"))
    assert [p.path for p in found] == ["spec.agents[0].prompt", "spec.agents[0].prompt", "spec.agents[1].prompt"]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("{input.log}", "Did you mean {inputs.log}?"),
        ("{inputs.log.x}", "Did you mean {inputs.log}?"),
        ("{inputs['log']}", "Did you mean {inputs.log}?"),
        ("{inputs[log]}", "Did you mean {inputs.log}?"),
        ("{inputs}", "Cite the prompt as {input}, an input as {inputs.NAME}."),
        ("{inputs.}", "Cite the prompt as {input}, an input as {inputs.NAME}."),
        ("{step.a}", "Did you mean {steps.a}?"),
        ("{steps[a]}", "Did you mean {steps.a}?"),
        ("{steps}", "Cite one as {steps.AGENT}."),
        ("{step}", "Cite one as {steps.AGENT}."),
        ("{input!r}", "Cite the prompt as {input}, an input as {inputs.NAME}."),
        ("{inputs.log!s}", "Did you mean {inputs.log}?"),
        ("{now}", OF_A_HEARTBEAT.replace("NAME", "now")),
        ("{slot}", OF_A_HEARTBEAT.replace("NAME", "slot")),
        ("{now!s}", OF_A_HEARTBEAT.replace("NAME", "now")),
    ],
)
def test_what_is_nearly_a_reference_is_refused_with_what_was_meant(wrong: str, meant: str) -> None:
    (problem,) = prompts.check(crew("sequential", a=None, b=f"Look: {wrong} and {wrong}."))
    assert problem.path == "spec.agents[1].prompt"
    assert problem.reason == f"the prompt of agent 'b' has {wrong}, which is no reference"
    assert problem.fix == f"{meant} Double the braces for the text itself: {{{wrong}}}."
    assert prompts.check(crew("sequential", a=None, b=f"Look: {{{wrong}}}.")) == []
    assert composed(f"Look: {{{wrong}}} {wrong}") == f"Look: {wrong} {wrong}"


@pytest.mark.parametrize(
    "template",
    [
        '{"input": "x", "steps": [{"a": 1}], "inputs": {}}',
        "{foo} {0} {} {{x}} ${HOME} {other.thing}",
        "import { steps } from 'x'; function f({ input, inputs }) { return {input: 1} }",
        "f'{name}' {inputting} {my.input} {steps: [1, 2]} {input, steps}",
        "{now: 1} {slots} {nowhere} { now } {now.hour} <td>{row.slot}</td>",
        "{steps.a} {input} {{steps.zz}}",
    ],
)
def test_ordinary_braces_are_no_problem(template: str) -> None:
    assert prompts.check(crew("sequential", a=None, b=template)) == []


def test_a_field_of_an_output_may_be_cited_and_its_agent_must_be_there() -> None:
    assert prompts.check(crew("sequential", a=None, b="{steps.a.output}")) == []
    (problem,) = prompts.check(crew("sequential", a=None, b="{steps.c.output}"))
    assert problem.reason == "the prompt of agent 'b' cites {steps.c.output}, but no agent is called 'c.output'"


@pytest.mark.parametrize(
    ("reference", "text"),
    [("a.score", "7"), ("a.review.by", "Kim"), ("a.items.1", "two"), ("text.score", "8"), ("b.c", "all"), ("b.d", "4")],
)
def test_a_field_is_put_in_place_of_its_reference(reference: str, text: str) -> None:
    outputs = {
        "a": {"score": 7, "review": {"by": "Kim"}, "items": ["one", "two"]},
        "text": ' {"score": 8}',
        "b": {"c": "a field, where the agent b.c is meant", "d": 4},
        "b.c": "all",
    }
    assert prompts.compose(f"<{{steps.{reference}}}>", "P", {}, outputs) == f"<{text}>"


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("a.none", "the output of 'a' has no field 'none': it is an object with score"),
        ("a.score.x", "'score' of the output of 'a' has no field 'x': it is the number 7"),
        ("b.x", "the output of 'b' has no field 'x': it is the text 'plain'"),
        ("c.0", "the output of 'c' has no field '0': it is a list of 0"),
    ],
)
def test_a_field_that_is_not_there_is_an_error(reference: str, why: str) -> None:
    outputs = {"a": {"score": 7}, "b": "plain", "c": []}
    with pytest.raises(values.Unusable) as caught:
        prompts.compose(f"{{steps.{reference}}}", "P", {}, outputs)
    assert str(caught.value) == why


def test_an_item_is_cited_where_there_is_one_and_is_text_elsewhere() -> None:
    template = "{item.name}: {input} {{item}} {item}"
    item = {"name": "{input}"}
    said = '{input}: P {item} {\n  "name": "{input}"\n}'
    assert prompts.compose(template, "P", {}, {}, item) == said
    assert prompts.compose(template, "P", {}, {}) == "{item.name}: P {{item}} {item}"
    assert prompts.compose(None, "P", {}, {}, "it") == "P\n\nThis item:\n\nit"


def test_what_was_skipped_and_what_a_loop_has_not_come_to_yet_is_empty() -> None:
    assert prompts.compose("<{steps.a}{steps.a.x}>", "P", {}, {"a": values.MISSING}) == "<>"


# checking a submission


def test_an_input_that_is_cited_must_be_given() -> None:
    errors, warnings = prompts.check_inputs(crew("sequential", a="{inputs.log}", b="{inputs.log} {inputs.x}"), ["x"])
    (error,) = errors
    assert error.path == "inputs.log"
    assert error.reason == "the prompt of agent 'a' cites {inputs.log}, but no such input was given"
    assert error.fix == "Give it with --input log=@FILE (or log=TEXT)."
    assert warnings == []


def test_an_input_that_no_template_cites_is_a_warning() -> None:
    errors, warnings = prompts.check_inputs(crew("sequential", a="{inputs.log} {{inputs.b}}", b=None), ["log", "b"])
    assert errors == []
    assert [w.path for w in warnings] == ["inputs.b"]
    assert warnings[0].reason == "input 'b' is used by no agent"


def _reading(**agents: dict[str, Any]) -> CrewDefinition:
    listed = [{"agent_id": name, **fields} for name, fields in agents.items()]
    return CrewDefinition.model_validate({"name": "c", "agents": listed})


def test_an_input_that_an_agent_reads_by_itself_is_no_warning() -> None:
    own = {"agent_class": "mine:Agent"}
    for quiet in (
        _reading(a=own),  # who knows what it reads
        _reading(a={}, b=own),
        _reading(a={}, b={**own, "inputs": ["folder"]}),
    ):
        assert prompts.check_inputs(quiet, ["folder"]) == ([], [])
    errors, warnings = prompts.check_inputs(_reading(a={}, b={**own, "inputs": ["folder"]}), ["folder", "spare"])
    assert (errors, [w.path for w in warnings]) == ([], ["inputs.spare"])
    assert prompts.check_inputs(_reading(b={**own, "inputs": ["folder"]}), []) == ([], []), "it may do without"


def test_inputs_that_can_be_read_only_once_are_read_only_once() -> None:
    errors, warnings = prompts.check_inputs(crew("sequential", a="{inputs.a} {inputs.b}"), iter(["a", "b"]))
    assert (errors, warnings) == ([], [])


# delegated steps


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, "ASKED"),
        ("{input} Be strict.", "ASKED Be strict."),
        ("Be strict.", "Be strict.\n\nASKED"),
        ("Be strict with {{input}}.", "Be strict with {input}.\n\nASKED"),
        ("{inputs.log}", "LOG\n\nASKED"),
    ],
)
def test_a_template_keeps_nothing_from_a_step_that_was_delegated(template: str | None, expected: str) -> None:
    given = {"log": "LOG"}
    assert prompts.compose_asked(template, "ASKED", given, {}) == expected
    of_review = prompts.compose_asked(template, "ASKED", given, {"coder": {"done": True}})
    assert of_review == f'{expected}{prompts.EARLIER}\n\n## coder\n\n{{\n  "done": true\n}}'


def test_the_names_of_agents_are_listed_no_more_often_in_a_crew_with_more_references(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed: Counter[str] = Counter()
    for method in ("agent_ids", "agent"):
        real = getattr(CrewDefinition, method)

        def counted(self: CrewDefinition, *args: str, real: Any = real) -> Any:
            listed[self.name] += 1
            return real(self, *args)

        monkeypatch.setattr(CrewDefinition, method, counted)
    for name, length in (("small", 3), ("large", 60)):
        agents: list[dict[str, Any]] = [{"agent_id": "a0"}]
        agents += [
            {
                "agent_id": f"a{i}",
                "prompt": f"{{steps.a{i - 1}}}",
                "for_each": f"{{steps.a{i - 1}}}",
                "when": {"step": f"a{i - 1}", "exists": True},
            }
            for i in range(1, length)
        ]
        assert prompts.check(CrewDefinition.model_validate({"name": name, "agents": agents})) == []
    assert listed["large"] == listed["small"] > 0
