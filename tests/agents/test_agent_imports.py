"""What loading agents costs, and says when an optional part is missing: each in a Python of its own."""

from __future__ import annotations

import subprocess
import sys


def in_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


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
    assert "pip install 'watchbill[llm]'" in done.stdout
