"""What loading agents costs, and says when an optional part is missing: each in a Python of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from watchbill.errors import install


def in_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=False)


def test_a_crew_without_models_never_loads_the_model_library() -> None:
    done = in_python(
        """
import sys
import watchbill.agents
from watchbill.records import CrewDefinition
crew = CrewDefinition(name="c", agents=[{"agent_id": "a", "agent_class": "EchoAgent", "tools": ["calculator"]}])
loader = watchbill.agents.AgentLoader()
assert loader.check(crew) == []
loader.load(crew, crew.agents[0])
print([name for name in ("pydantic_ai", "openai", "aiohttp", "redis") if name in sys.modules])
"""
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_missing_model_library_is_told_with_what_to_install() -> None:
    done = in_python(
        """
import sys
sys.modules["pydantic_ai"] = None
from watchbill.agents import AgentLoader
from watchbill.records import CrewDefinition
crew = CrewDefinition(name="c", model="openai:x", agents=[{"agent_id": "a"}])
print(*AgentLoader().check(crew))
"""
    )
    assert "agent class 'LLMAgent' needs 'pydantic_ai', which is not installed" in done.stdout
    assert install("llm") in done.stdout


def test_a_file_that_hides_a_library_is_named_as_the_culprit(tmp_path: Path) -> None:
    (tmp_path / "openai.py").write_text("class Mine:\n    def run(self, context): ...\n")
    done = in_python(
        f"""
from pathlib import Path
from watchbill.agents import AgentLoader
from watchbill.records import CrewDefinition
agents = [{{"agent_id": "a", "agent_class": "openai:Mine"}}, {{"agent_id": "b", "model": "openai:x"}}]
print(*AgentLoader([Path({str(tmp_path)!r})]).check(CrewDefinition(name="c", agents=agents)), sep="\\n")
"""
    )
    path = tmp_path / "openai.py"
    assert done.stdout == (
        f"spec.agents[1].model: model 'openai:x': {path} has the name of the library 'openai', and is imported in its "
        "place. Rename the file.\n"
    ), done.stderr


@pytest.mark.parametrize("source", ["from openai import OpenAI", "import openai.types", "import openai; openai.OpenAI"])
def test_a_file_that_hides_the_library_it_needs_is_named_as_the_culprit(tmp_path: Path, source: str) -> None:
    (tmp_path / "openai.py").write_text(f"{source}\ndef run(context): ...\n")
    done = in_python(
        f"""
from pathlib import Path
from watchbill.agents import AgentLoader
from watchbill.records import CrewDefinition
agents = [{{"agent_id": "a", "agent_class": "openai:run"}}]
print(*AgentLoader([Path({str(tmp_path)!r})]).check(CrewDefinition(name="c", agents=agents)))
"""
    )
    assert "has the name of the library 'openai', and is imported in its place. Rename" in done.stdout, done
