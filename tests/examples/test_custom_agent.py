"""examples/custom-agent works in each of the ways that it shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from watchbill.agents import AgentLoader
from watchbill.api.parse import parse
from watchbill.local import run_file
from watchbill.records import CrewDefinition, from_crew
from watchbill.tasks import RunResult

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "custom-agent"
README = (EXAMPLE / "README.md").read_text()


def crew_of(path: Path) -> CrewDefinition:
    [crew] = parse(path.read_text(), str(path)).crews
    return from_crew(crew)


async def test_it_prints_what_its_page_says() -> None:
    [prompt] = re.findall(r'watchbill run examples/custom-agent/crew.yaml "(.*)"', README)
    [printed] = re.findall(r"prints `(.*?)`", README)
    result = await run_file(EXAMPLE / "crew.yaml", prompt)
    assert isinstance(result, RunResult)
    assert result.output == printed
    assert result.steps["items"].output == {"lamp": 2, "chair": 1}
    assert result.steps["total"].output == 105.0


@pytest.mark.pure
def test_a_mounted_configmap_has_all_that_the_crew_names(tmp_path: Path) -> None:
    mounted = [Path(name).name for name in re.findall(r"--from-file=(\S+)", README)]
    (data := tmp_path / "..2026_01_01").mkdir()
    (tmp_path / "..data").symlink_to(data.name)  # as the kubelet lays it out
    for name in mounted:
        (data / name).write_text((EXAMPLE / name).read_text())
        (tmp_path / name).symlink_to(Path("..data", name))
    code = (
        "import pathlib, sys; from watchbill.agents import AgentLoader; from watchbill.records import CrewDefinition; "
        "problems = AgentLoader([pathlib.Path(sys.argv[1])]).check(CrewDefinition.model_validate_json(sys.argv[2])); "
        "print(*problems); sys.exit(bool(problems))"
    )
    crew = crew_of(EXAMPLE / "crew.yaml").model_dump_json()
    done = subprocess.run([sys.executable, "-c", code, tmp_path, crew], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
    [problem, *_] = AgentLoader().check(crew_of(EXAMPLE / "crew.yaml"))
    assert "'shop_agents'" in problem.reason  # so it was the folder that had it


@pytest.mark.pure
@pytest.mark.parametrize("config", [{}, {"catalogue": []}, {"catalog": ["lamp"]}])
def test_a_wrong_config_of_its_is_told_by_field(config: dict[str, Any]) -> None:
    crew = crew_of(EXAMPLE / "crew.yaml")
    agents = [crew.agents[0].model_copy(update={"config": config}), *crew.agents[1:]]
    problems = AgentLoader([EXAMPLE]).check(crew.model_copy(update={"agents": agents}))
    assert problems
    assert all(problem.path.startswith("spec.agents[0].config.catalog") for problem in problems)


def test_the_package_is_found_once_it_is_installed(tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", tmp_path, EXAMPLE / "package"], check=True)
    code = (
        "import asyncio, json, pathlib, sys; from watchbill.local import run_file; "
        "print(json.dumps(asyncio.run(run_file(pathlib.Path(sys.argv[1]), sys.argv[2])).output))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    [prompt] = re.findall(r'watchbill run examples/custom-agent/package/crew.yaml "(.*)"', README)
    command = [sys.executable, "-c", code, EXAMPLE / "package" / "crew.yaml", prompt]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == 5
