"""Text as Kubernetes' tools read it: documents, values, JSON, anchors; and what is said of text that can't be read.

That they really do read it so is asked of a real API server in e2e/control_plane.
"""

from __future__ import annotations

import builtins
import itertools
import json
import re
import string
from typing import Any

import pytest
from reading import CREW, HEARTBEAT, only, places, problems, read

from watchbill.api.parse import parse
from watchbill.errors import MissingExtra

pytestmark = pytest.mark.pure


def test_several_documents_are_read_in_their_order_and_empty_ones_skipped() -> None:
    parsed = read(f"---\n---\n{HEARTBEAT}---\n{CREW}---\n{HEARTBEAT.replace('morning', 'evening')}---\n")
    assert [crew.name for crew in parsed.crews] == ["blog-team"]
    assert [heartbeat.name for heartbeat in parsed.heartbeats] == ["morning", "evening"]


def test_nothing_stands_behind_three_dashes_but_a_comment() -> None:
    assert len(read(f"{CREW}--- # next\n{CREW.replace('blog', 'b')}---\t\n").crews) == 2
    problem = only(f"{CREW}--- {{kind: Crew}}\n")
    assert (problem.source, problem.fix) == ("crew.yaml:10", "Put it into the next line.")


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n---\n"])
def test_an_empty_file(text: str) -> None:
    problem = only(text)
    assert (problem.source, problem.reason) == ("crew.yaml:1", "there is nothing in it")


@pytest.mark.parametrize("text", ["just words\n", "- a\n- b\n", "42\n"])
def test_a_document_that_is_not_a_mapping(text: str) -> None:
    problem = only(text)
    assert problem.reason.endswith("is not a resource")
    assert problem.fix == "Write a mapping with apiVersion, kind, metadata and spec."


def test_a_list_as_kubectl_prints_it() -> None:
    items = "".join(f"- {text.replace(chr(10), chr(10) + '  ').rstrip()}\n" for text in (CREW, HEARTBEAT))
    text = f"apiVersion: v1\nkind: List\nmetadata:\n  resourceVersion: ''\nitems:\n{items}"
    parsed = parse(text, "crew.yaml")
    assert ([c.name for c in parsed.crews], [h.name for h in parsed.heartbeats]) == (["blog-team"], ["morning"])
    assert parsed.where(parsed.heartbeats[0], ("spec", "schedule")) == "crew.yaml:21"
    problem = only(text.replace("prompt: Write.", "promt: Write."))
    assert (problem.source, problem.path) == ("crew.yaml:22", "spec.promt")
    problem = only(text.replace("prompt: Write.", "agent: a\n    agent: b"))
    assert (problem.source, problem.path) == ("crew.yaml:23", "items[1].spec.agent")


@pytest.mark.parametrize("written", ["  items:\n", "  items: {}\n", "items: 5\n"])
def test_a_list_of_nothing_is_no_resource(written: str) -> None:
    assert "is not known as" in problems(f"apiVersion: v1\nkind: List\n{written.strip()}\n")[0].reason
    assert only("apiVersion: v1\nkind: List\nitems: []\n").reason == "there is nothing in it"


# values


def config(value: str) -> Any:
    """What an agent's config has where this is written."""
    return read(CREW + f"      config:\n        x: {value}\n").crews[0].spec.agents[1].config["x"]


@pytest.mark.parametrize(
    "plain",
    ["12:30", "2026-01-02", "1.2.3", "0x", "1e", "1e400", "=", "<<", "_1", "9" * 5000],
    ids=lambda plain: plain[:9],
)
def test_what_kubernetes_reads_as_text_is_text_here_too(plain: str) -> None:
    assert read(HEARTBEAT.replace("Write.", plain)).heartbeats[0].spec.prompt == plain


@pytest.mark.parametrize(
    ("plain", "value"),
    [
        *(("7", 7), ("-7", -7), ("0", 0), ("0x10", 16), ("010", 8), ("0b11", 3), ("1_000", 1000)),
        *(("0.5", 0.5), ("1e-3", 0.001), ("1e22", 1e22)),
        *(("1.0", 1), ("1e3", 1000), ("-0.0", 0), ("9223372036854775808", 9223372036854776000)),
        *(("y", True), ("No", False), ("NULL", None)),
    ],
)
def test_values_are_what_a_cluster_would_hold(plain: str, value: Any) -> None:
    assert repr(config(plain)) == repr(value)


@pytest.mark.parametrize("plain", [".inf", "-.INF", ".nan"])
def test_what_json_has_no_number_for_is_refused(plain: str) -> None:
    problem = only(CREW + f"      config:\n        x: {plain}\n")
    assert (problem.source, problem.path) == ("crew.yaml:11", "spec.agents[1].config.x")
    assert problem.reason == f"there is no number {plain} in JSON"


def test_tabs_may_stand_where_they_indent_nothing() -> None:
    text = CREW.replace("kind: Crew", "kind:\tCrew\t# which").replace("spec:", "spec:\t")
    assert read(text + "  description: a\tb \t c\t\n").crews[0].spec.description == "a\tb \t c"


@pytest.mark.parametrize("value", ["!mine x", "! 5", "!!binary aGk=", "!!set {a}", "!!python/object:os.system {}"])
def test_a_tag_that_json_has_no_type_for_is_named(value: str) -> None:
    problem = only(CREW + f"      config:\n        x: {value}\n")
    assert problem.source == "crew.yaml:11"
    assert problem.reason == f"the tag {value.partition(' ')[0]} is not known"


@pytest.mark.parametrize("key", ["on", "y", "1", "null", "1.5", ".inf"])
def test_a_key_that_is_not_text(key: str) -> None:
    problem = only(HEARTBEAT + f"  metadata: {{{key}: x}}\n")
    assert problem.reason == f"the key {key} is not text"
    assert problem.fix == "Put it in quotes."


def test_a_destination_whose_outcomes_are_called_on_is_told_the_name_of_the_field() -> None:
    problem = only(CREW + "  delivery:\n    - name: ops\n      on: [Failure]\n      log: {}\n")
    assert problem.path == "spec.delivery[0].on"
    assert problem.fix == "The field is called outcomes, as in outcomes: [Failure]."


def test_a_key_given_twice_is_not_silently_overridden() -> None:
    problem = only(CREW.replace("  agents:", "  model: other\n  agents:"))
    assert (problem.source, problem.path) == ("crew.yaml:7", "spec.model")
    assert problem.reason == "the key 'model' is given twice, first at line 6"
    assert problem.fix == "Keep one of the two."


# JSON


def as_json(description: str) -> str:
    """CREW as JSON, with this between the quotes of its description."""
    crew = read(CREW + "  description: TEXT\n").crews[0]
    content = {"apiVersion": "watchbill.dev/v1alpha1", **crew.model_dump(mode="json", by_alias=True)}
    return json.dumps(content, indent="\t").replace("TEXT", description)


def test_json_is_yaml() -> None:
    crew = read(CREW).crews[0]
    text = json.dumps({"apiVersion": "watchbill.dev/v1alpha1", **crew.model_dump(mode="json", by_alias=True)})
    assert parse(text, "crew.json").crews == (crew,)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"\ud83d\ude00", "😀"),
        (r"\\ud83d\\ude00", r"\ud83d\ude00"),
        (r"\\\uD83D\uDE00", "\\😀"),
        (r"a\/b\\/", "a/b\\/"),
        ("\x85 \u2028 \x7f \ufeff", "\x85 \u2028 \x7f \ufeff"),
        (r"\u0000\t\"", '\0\t"'),
    ],
)
def test_json_is_read_as_json(written: str, meant: str) -> None:
    assert parse(as_json(written), "crew.json").crews[0].spec.description == meant


def test_json_objects_may_follow_each_other() -> None:
    one, other = as_json("x"), as_json("y").replace("blog-team", "other")
    parsed = parse(f"\n{one}{other}\n---\n{HEARTBEAT}", "crew.json")
    assert [crew.name for crew in parsed.crews] == ["blog-team", "other"]
    first = one.count("\n") + 2
    assert parsed.where(parsed.crews[1], ("metadata", "name")) == f"crew.json:{first + 4}"
    assert parsed.where(parsed.heartbeats[0], ("spec", "schedule")) == f"crew.json:{first + other.count(chr(10)) + 8}"


def test_half_a_character_is_refused() -> None:
    for text in (as_json(r"\ud83d"), CREW + '  description: "\\ud83d\\ude00"\n'):
        assert (only(text).path, "half a character" in only(text).reason) == ("spec.description", True)
    assert only(CREW + '      config: {"\\ud83d": 1}\n').path == "spec.agents[1].config"


# anchors and merges


def test_anchors_and_merge_keys_work() -> None:
    text = """\
        apiVersion: watchbill.dev/v1alpha1
        kind: Crew
        metadata: {name: c}
        spec:
          agents:
            - &first {name: a, class: EchoAgent, timeoutSeconds: 5}
            - {<<: *first, name: b}
        """
    assert [(a.name, a.timeout_seconds) for a in read(text).crews[0].spec.agents] == [("a", 5), ("b", 5)]


def test_an_anchor_may_be_given_again() -> None:
    assert config("[&x a, *x, &x b, *x]") == ["a", "a", "b", "b"]


def test_merges_come_before_what_differs() -> None:
    assert config("{<<: {a: 1, b: 2}, b: 3}") == {"a": 1, "b": 3}
    assert config("{<<: [{a: 1}, {a: 2, b: 2}]}") == {"a": 1, "b": 2}
    assert config("{b: 3, <<: {a: 1}}") == {"a": 1, "b": 3}
    problem = only(CREW + "      config:\n        b: 3\n        <<: [{<<: {b: 1}}, {c: 2}]\n")
    assert (problem.source, problem.path) == ("crew.yaml:11", "spec.agents[1].config.b")
    assert problem.fix == "Put << before every other key."


def test_the_line_of_what_was_overridden_is_that_of_the_last_word() -> None:
    problem = only(CREW + "  tasks:\n    <<: {maxAttempts: 3}\n    maxAttempts: 0\n")
    assert (problem.source, problem.path) == ("crew.yaml:12", "spec.tasks.maxAttempts")


def test_few_lines_that_stand_for_millions_of_values_are_refused_at_once() -> None:
    pairs = list(itertools.pairwise(string.ascii_letters[:30]))
    tenfold = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in pairs)
    assert re.search("there are [0-9]{30} values, where [0-9]{3} are written$", only(f"a: &a x\n{tenfold}").reason)
    twofold = "".join(f"{b}: &{b} {{<<: [*{a}, *{a}]}}\n" for a, b in pairs)
    assert re.search("there are [0-9]{10} values", only(f"a: &a {{k: v}}\n{twofold}").reason)


def test_many_aliases_of_something_small_are_fine() -> None:
    assert len(config(f"[&x {{a: 1}}, {', '.join(['*x'] * 2000)}]")) == 2001


# text that can't be read


def test_yaml_that_is_not_yaml_is_told_with_line_and_column() -> None:
    problem = only("kind: Crew\nspec:\n  prompt: Research: this\n")
    assert problem.source == "crew.yaml:3"
    assert problem.reason == "this is not YAML that can be read: mapping values are not allowed here, at column 19"
    assert "into quotes" in problem.fix


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1,\nb: 2\n", 3),
        ("a:\n\t- b\n", 2),
        ("a: 'open\n", 2),
        ("a: *nothing\n", 1),
        ("a: 1\n b: 2\n", 2),
        ("a: \x07bell\n", 1),
        ("a: !!python/object:os.system {}\n", 1),
        ("a: !secret x\n", 1),
        ("a: !!binary aGk=\n", 1),
        ("a: 1\nb: &x [*x]\n", 2),
        ("a: !!int x\n", 1),
        ("\na: !!float x\n", 2),
        ("a: !!bool x\n", 1),
        ("a: !!null x\n", 1),
        ("a: !!int\n  <<: x\n", 1),
        ('a: "\\U00110000"\n', 1),
        ('a: b\nc: "\\UFFFFFFFF"\n', 2),
        ('a: "\\/"\n', 1),
        ("a: {b:}\n", 1),
        ("a: [b:[c]]\n", 1),
        ("a: &x {<<: *x}\n", 1),
        ("{" * 5000, 1),
        ("[" * 5000, 1),
    ],
)
def test_every_kind_of_unreadable_text_gives_one_problem_and_its_line(text: str, line: int) -> None:
    problem = only(text)
    assert problem.source == f"crew.yaml:{line}"
    assert problem.reason
    assert problem.fix.endswith(".")


def test_a_document_that_is_not_yaml_does_not_hide_the_problems_before_it() -> None:
    assert places(f"{CREW}  zzz: 1\n---\na: b: c\n") == [("crew.yaml:10", "spec.zzz"), ("crew.yaml:12", "")]


def test_without_pyyaml_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_yaml(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "yaml":
            raise ModuleNotFoundError(name, name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_yaml)
    with pytest.raises(MissingExtra, match=r"Reading YAML files .*\[cli\]'"):
        parse(CREW, "crew.yaml")
