"""What the command line writes can be read back, and steers no terminal, whatever agents and models say."""

from __future__ import annotations

import json
import os
import pty

import pytest
import yaml
from shell import Shell

import forks
from watchbill.cli.output import as_yaml
from watchbill.terminal import as_json, indented, one_line, printable

STEERING = [
    *map(chr, [*range(9), *range(11, 32), *range(0x7F, 0xA0)]),
    *"\u061c\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    "\ud83d",
]
HARMLESS = "tab\t, Zoë, שלום\u200f, 👩‍👩‍👧 e\u0301 \ufeff \U000e0067"


@pytest.mark.pure
@pytest.mark.parametrize("text", ["y", "n", "yes", "1_000", "0o17", "1e3", ".inf", "null", "12:30"])
def test_text_that_some_reader_of_yaml_takes_for_something_else_is_quoted(text: str) -> None:
    assert as_yaml({"a": text}) == f"a: '{text}'\n"


@pytest.mark.pure
def test_text_of_several_lines_is_a_block_and_other_text_is_plain() -> None:
    assert as_yaml({"a": "b\nc", "d": "e"}) == "a: |-\n  b\n  c\nd: e\n"


@pytest.mark.pure
def test_nothing_in_a_text_steers_a_terminal_and_all_other_letters_stay() -> None:
    assert printable("a\r\nb") == "a\nb"
    assert printable(HARMLESS) == HARMLESS
    for char in STEERING:
        assert printable(f"<{char}>") == "<\ufffd>", repr(char)
    assert one_line("a\nb\u2028c") == "a b\ufffdc"
    assert indented("a\n12:00:00 second completed\n") == "a\n    12:00:00 second completed"


@pytest.mark.pure
def test_json_and_yaml_escape_what_steers_a_terminal_and_read_back_as_it_was() -> None:
    for char in STEERING:
        value = {f"key {char}": [f"text {char} {HARMLESS}", f"lines\n{char}\n", char]}
        texts = [as_json(value), as_json(value, indent=2)]
        assert all(json.loads(text) == value for text in texts)
        if char < "\ud800" or char > "\udfff":  # which YAML can't say
            texts.append(as_yaml(value))
            assert yaml.safe_load(texts[-1]) == value
        assert all(char not in text for text in texts), repr(char)


MODULE = r"""
import atexit
import subprocess

print("printed by the module")
subprocess.run(["echo", "printed by a child of the module"])
atexit.register(print, "printed at the end")
BAD = "\x1b]0;PWNED\x07 \x1b[2J \x9b31m \u202eevil\u2066 \r12:00:00 all completed\n12:00:00 forged line"


def thread(context):
    context.logger.info("half way")
    print("printed by an agent")
    subprocess.run(["echo", "printed by a child of an agent"])
    return {"count": 3}


class Loop:
    async def run(self, context):
        context.logger.info("half way")
        context.logger.warning("odd %s", context.agent.agent_id)
        return 1


class Apart:
    runs_in = "process"

    def run(self, context):
        context.logger.info("half way")
        context.logger.debug("too much")
        print("printed by an agent in a process")
        subprocess.run(["echo", "printed by a child of an agent in a process"])
        return 1


async def bad(context):
    await context.emit(BAD)
    context.logger.warning(BAD)
    return "# " + BAD + " [link](http://evil.invalid)"


async def worse(context):
    raise RuntimeError(BAD)
"""
CREW = """\
apiVersion: watchbill.dev/v1alpha1
kind: Crew
metadata: {name: loud}
spec:
  tasks: {maxAttempts: 1}
  agents:
"""


def write(shell: Shell, *agents: str) -> None:
    (shell.folder / "loud_agents.py").write_text(MODULE)
    listed = (f'    - {{name: {name.lower()}, class: "loud_agents:{name}"}}\n' for name in agents)
    (shell.folder / "crew.yaml").write_text(CREW + "".join(listed))


def test_what_agents_their_modules_and_their_children_print_never_gets_into_the_result(shell: Shell) -> None:
    write(shell, "Apart", "thread")
    done = shell.run("run", "crew.yaml", "x", "--output", "json", "--ephemeral")
    assert json.loads(done.stdout)["output"] == {"count": 3}
    for who in ("the module", "a child of the module", "an agent", "a child of an agent", "an agent in a process",
                "a child of an agent in a process"):  # fmt: skip
        assert f"printed by {who}\n" in done.stderr
    assert "printed at the end\n" in done.stderr
    text = shell.run("run", "crew.yaml", "x", "--agent", "thread", "--ephemeral").stdout
    assert json.loads(text) == {"count": 3}


def test_what_agents_log_is_shown_under_their_names_and_more_or_less_by_option(shell: Shell) -> None:
    write(shell, "Apart", "Loop", "thread")
    usual = shell.run("run", "crew.yaml", "x", "--id", "r").stderr
    for agent in ("apart", "loop", "thread"):
        assert f" {agent}: half way\n" in usual
    assert " loop: WARNING: odd loop\n" in usual
    assert "too much" not in usual
    assert "watchbill." not in usual

    more = shell.run("run", "crew.yaml", "x", "-vv", "--id", "s").stderr
    for agent in ("apart", "loop", "thread"):
        assert f" INFO agent default/loud/{agent} run=s task=s/{agent}: half way\n" in more
    assert " DEBUG agent default/loud/apart run=s task=s/apart: too much\n" in more

    less = shell.run("run", "crew.yaml", "x", "-q", "--id", "t")
    assert json.loads(less.stdout) == {"count": 3}
    assert {line for line in less.stderr.splitlines() if not line.startswith("printed ")} == set()

    both = shell.run("run", "crew.yaml", "x", "-q", "-v")
    assert (both.returncode, both.stdout) == (2, "")
    assert "--verbose and --quiet contradict each other" in both.stderr


def test_a_level_of_the_environment_holds_unless_an_option_says_another(shell: Shell) -> None:
    write(shell, "Loop")
    env = {"WATCHBILL_LOG_LEVEL": "warning"}
    usual = shell.run("run", "crew.yaml", "x", "--ephemeral", env=env).stderr
    assert "half way" not in usual
    assert " WARNING agent default/loud/loop run=" in usual
    assert ": half way\n" in shell.run("run", "crew.yaml", "x", "--ephemeral", "-v", env=env).stderr


def on_terminal(shell: Shell, *arguments: str) -> str:
    """All that it writes on a terminal, which is its stdout and its stderr."""
    leader, follower = pty.openpty()
    env = shell.env | {"TERM": "xterm-256color", "COLUMNS": "200"}
    process = forks.start(
        ["-m", "watchbill", *arguments],
        cwd=shell.folder,
        env=env,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    seen = b""
    try:
        while True:
            try:
                data = os.read(leader, 65536)
            except OSError:  # Linux: the other end is closed
                data = b""
            if not data:
                break
            seen += data
        process.wait(180)
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    return seen.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("agent", ["bad", "worse"])
def test_nothing_that_an_agent_says_steers_a_real_terminal(shell: Shell, agent: str) -> None:
    write(shell, agent)
    forms = ("text", "json", "yaml")
    said: dict[tuple[str, ...], str] = {
        ("run", form): on_terminal(shell, "run", "crew.yaml", "x", "-o", form, "--id", form) for form in forms
    }
    others = [("events", "loud", "-o", "text"), ("events", "loud", "-o", "json"), ("result", "loud", "text")]
    if agent == "worse":
        others = [("dead", "show", "loud", "text/worse"), ("dead", "list", "loud"), ("status", "loud", "text")]
    said |= {command: on_terminal(shell, *command) for command in others}
    for command, text in said.items():
        assert "evil" in text or "PWNED" in text, command
        for steering in ("\x1b]", "\x1b[2J \ufffd", "\x9b", "\u202e", "\u2066", "\r12:00"):
            assert steering not in text, (command, steering)
        if command not in [("run", "text"), ("result", "loud", "text"), ("dead", "show", "loud", "text/worse")]:
            assert "\n12:00:00 forged" not in text, command  # those show the text itself, line by line
