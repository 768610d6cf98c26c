"""Bad input: named with file, line, field, reason and fix; exit 2, and nothing is stored or started."""

from __future__ import annotations

import pytest
from shell import Shell

HEAD = "apiVersion: watchbill.dev/v1alpha1\nkind: Crew\nmetadata: {name: c}\nspec:\n"
GOOD = f"{HEAD}  agents:\n    - {{name: a, class: EchoAgent}}\n"
FLOW = (
    f"{HEAD}  executionMode: flow\n  agents:\n    - {{name: researcher, class: EchoAgent}}\n"
    "    - {name: writer, class: EchoAgent}\n  flowRelations:\n"
)
BEAT = (
    "---\napiVersion: watchbill.dev/v1alpha1\nkind: Heartbeat\nmetadata: {name: h}\n"
    "spec:\n  crewRef: {name: c}\n  prompt: x\n"
)

BAD = {
    "an unknown agent class": (f"{HEAD}  agents:\n    - name: a\n      class: nowhere:Agent\n", 7, "nowhere", "Put"),
    "an unknown tool": (
        f"{HEAD}  agents:\n    - name: a\n      class: EchoAgent\n      tools: [no-such]\n", 8, "no-such", "Use one of",
    ),
    "an agent of a relation that isn't there": (
        f"{FLOW}    - {{source: [market_researcher], target: [writer]}}\n", 10, "market_researcher", "researcher",
    ),
    "a cycle": (
        f"{FLOW}    - {{source: [researcher], target: [writer]}}\n    - {{source: [writer], target: [researcher]}}\n",
        9, "researcher -> writer -> researcher", "Remove",
    ),
    "two agents of one name": (f"{GOOD}    - {{name: a, class: EchoAgent}}\n", 7, "two agents are called 'a'", "Give"),
    "a bad cron": (f"{GOOD}{BEAT}  schedule: '61 * * * *'\n", 14, "61 * * * *", "five fields"),
    "a bad zone": (f"{GOOD}{BEAT}  schedule: '1 * * * *'\n  timeZone: Mars/Olympus\n", 15, "Mars/Olympus", "UTC"),
    "schedule and interval": (f"{GOOD}{BEAT}  schedule: '1 * * * *'\n  intervalSeconds: 5\n", 15, "both", "Remove one"),
    "minReplicas above maxReplicas": (
        f"{GOOD}  workers: {{minReplicas: 5, maxReplicas: 2}}\n", 7, "minReplicas (5)", "Lower",
    ),
    "an unknown field": (f"{GOOD}  colour: red\n", 7, "spec.colour", "Remove it"),
    "YAML that isn't YAML": ("a: [b\nc: d", 2, "not YAML", "quotes"),
    "an empty file": ("", 1, "nothing", "Write a Crew"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_by_line_field_and_fix(shell: Shell, case: str) -> None:
    text, line, named, fix = BAD[case]
    (shell.folder / "bad.yaml").write_text(text)
    before = sorted(shell.folder.iterdir())

    done = shell.run("run", "bad.yaml", "x")

    assert (done.returncode, done.stdout) == (2, "")
    first = done.stderr.splitlines()[0]
    assert first.startswith(f"error: bad.yaml:{line}: ")
    assert named in first
    assert fix in first
    assert "Traceback" not in done.stderr
    assert sorted(p for p in shell.folder.iterdir() if p.name != "__pycache__") == before


def test_all_problems_of_all_files_are_listed_one_on_a_line(shell: Shell) -> None:
    (shell.folder / "one.yaml").write_text(f"{GOOD}  colour: red\n  size: 3\n")
    (shell.folder / "two.yaml").write_text("kind: Crew\n")
    done = shell.run("run", "one.yaml", "--also", "two.yaml", "--also", "three.yaml", "x")

    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    for place in ("one.yaml:7: spec.colour", "one.yaml:8: spec.size", "two.yaml:", "three.yaml: there is no such file"):
        assert any(place in line for line in lines), place


def test_a_prompt_above_the_limit_is_refused_and_the_way_for_more_is_named(shell: Shell) -> None:
    (shell.folder / "long.txt").write_text("x" * (256 * 1024 + 1))
    for arguments in (("--file", "long.txt"), ("-",)):
        done = shell.run("run", "crew.yaml", *arguments, stdin="x" * 300_000)
        assert done.returncode == 2
        assert "256 KiB" in done.stderr
        assert "--input" in done.stderr
    assert not (shell.folder / ".watchbill").exists()

    (shell.folder / "fits.txt").write_text("x" * (256 * 1024) + "\n")
    assert shell.run("run", "crew.yaml", "--file", "fits.txt", "--ephemeral").returncode == 0


def test_an_input_above_the_limit_is_refused(shell: Shell) -> None:
    with (shell.folder / "huge").open("wb") as file:
        file.truncate(16 * 1024 * 1024 + 1)
    done = shell.run("run", "crew.yaml", "x", "--input", "log=@huge")

    assert done.returncode == 2
    assert "error: huge: --input log: " in done.stderr
    assert "16 MiB" in done.stderr
    assert not (shell.folder / ".watchbill").exists()


def test_an_input_that_nobody_uses_is_a_warning_said_once(shell: Shell) -> None:
    assert "warning" not in shell.run("run", "crew.yaml", "x", "--input", "spare=text", "--ephemeral").stderr
    text = (shell.folder / "crew.yaml").read_text()
    (shell.folder / "crew.yaml").write_text(
        text.replace("}", ", inputs: [log]}").replace("notes, inputs: [log]", "notes")
    )
    done = shell.run("run", "crew.yaml", "x", "--input", "spare=text", "--ephemeral")

    assert done.returncode == 0
    assert done.stderr.count("input 'spare' is used by no agent") == 1
    assert done.stderr.startswith("warning: inputs.spare: ")


def test_an_input_that_a_template_cites_must_be_given(shell: Shell) -> None:
    (shell.folder / "crew.yaml").write_text(
        f'{HEAD}  agents: [{{name: a, class: EchoAgent, prompt: "{{inputs.log}}"}}]\n'
    )
    done = shell.run("run", "crew.yaml", "x")

    assert done.returncode == 2
    assert "inputs.log" in done.stderr
    assert "--input log=@FILE" in done.stderr
    assert not (shell.folder / ".watchbill").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("x", "--file", "p"), ("PROMPT", "--file")),
        (("x", "--ephemeral", "--resume"), ("--ephemeral", "--resume")),
        (("x", "--ephemeral", "--redis-url", "redis://127.0.0.1:1"), ("--ephemeral", "--redis-url")),
        (("x", "--ephemeral", "--state", "s"), ("--ephemeral", "--state")),
        (("x", "--state", "s", "--redis-url", "redis://127.0.0.1:1"), ("--state", "--redis-url")),
        (("x", "--watch", "--resume"), ("--watch", "--resume")),
        (("x", "--watch", "--timeout", "3"), ("--watch", "--timeout")),
        (("x", "--resume", "--agent", "first"), ("--resume", "--agent")),
        (("-", "--input", "a=@-"), ("PROMPT -", "--input a=@-")),
        ((), ("no prompt", "--file")),
        (("--resume", "--input", "a=b"), ("--input", "prompt")),
        (("x", "--input", "a"), ("'a'", "NAME=@FILE")),
        (("x", "--input", "a=b", "--input", "a=c"), ("'a'", "twice")),
        (("x", "--input", "a=@nowhere"), ("nowhere", "no such file")),
        (("x", "--agent", "nobody"), ("nobody", "first, second, third")),
        (("x", "--crew", "nobody"), ("nobody", "notes")),
        (("x", "--id", "a/b"), ("a/b", "letters")),
        (("x", "--no-such-option"), ("--no-such-option",)),
        (("x", "--concurrency", "0"), ("--concurrency",)),
        (("x", "--redis-url", "http://127.0.0.1"), ("http://127.0.0.1", "redis://")),
        (("x", "--redis-url", "redis://u:secret1@127.0.0.1:port"), ("redis://127.0.0.1:port",)),
    ],
)  # fmt: skip
def test_wrong_usage_exits_with_2_and_names_what_is_wrong(
    shell: Shell, arguments: tuple[str, ...], named: tuple[str, ...]
) -> None:
    done = shell.run("run", "crew.yaml", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    for text in named:
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret1" not in done.stderr
    assert not (shell.folder / ".watchbill").exists()
    assert shell.notes() == []


@pytest.mark.parametrize(
    ("name", "value"), [("GRACE_SECONDS", "soon"), ("LOG_LEVEL", "LOUD"), ("HEALTH_PORT", "99999")]
)
def test_a_setting_that_cannot_be_used_is_named(shell: Shell, name: str, value: str) -> None:
    done = shell.run("run", "crew.yaml", "x", env={f"WATCHBILL_{name}": value})

    assert done.returncode == 2
    assert f"WATCHBILL_{name}: '{value}'" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_would_steer_a_terminal_is_not_printed_on_stderr(shell: Shell) -> None:
    done = shell.run("run", "nowhere\x1b[2J.yaml", "x")

    assert done.returncode == 2
    assert "\x1b" not in done.stderr


def test_a_typo_in_the_file_is_told_beside_a_missing_prompt(shell: Shell) -> None:
    (shell.folder / "crew.yaml").write_text(f"{HEAD}  agents: [{{name: a, clas: EchoAgent}}]\n")
    done = shell.run("run", "crew.yaml")
    assert done.returncode == 2
    assert "clas" in done.stderr
    assert "there is no prompt" in done.stderr


@pytest.mark.parametrize("option", [["--id", "y"], ["--agent", "first"], ["--input", "a=b"]])
def test_an_option_for_a_prompt_that_is_not_there_is_refused(shell: Shell, option: list[str]) -> None:
    refused = shell.run("run", "crew.yaml", "--watch", *option)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"{option[0]} has no use without a prompt. Add a prompt, or remove {option[0]}." in refused.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["x", "--dedupe-seconds", "5"],
            "--dedupe-seconds is for --dedupe-key, which is missing. Add --dedupe-key TEXT.",
        ),
        (["--heartbeat", "hourly", "--priority", "HIGH"], "The heartbeat has a priority of its own."),
        (["--heartbeat", "hourly", "--input", "a=b"], "The heartbeat has inputs of its own."),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(shell: Shell, stored: str, options: list[str], said: str) -> None:
    refused = shell.run("submit", stored, *options)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert said in refused.stderr


def test_who_asks_for_the_events_of_an_agent_that_is_not_there_is_told_which_are(shell: Shell, stored: str) -> None:
    found = shell.run("events", stored, "--agent", "fisrt")
    assert (found.returncode, found.stdout) == (0, "")
    assert f"note: crew '{stored}' has no agent 'fisrt'; it has: first, second, third" in found.stderr
    assert shell.run("events", stored, "--agent", "first").stderr == ""
