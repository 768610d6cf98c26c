"""A crew of each mode at work on the cluster: the examples, by the lines of their own pages, all at the same time.

Their agents ask a model in a pod, which speaks OpenAI's protocol and plays them all (tests/examples/scripted.py).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from e2e.cluster import install, programs
from e2e.kind import crews
from e2e.kind.team import NAMESPACE, SOON, Team, patient
from watchbill.records import ExecutionMode

EXAMPLES = install.ROOT / "examples"
MODEL = "model"
PORT = 8080
SAID = {
    "custom-agent": "2 x lamp, 1 x chair: 105.00 euros",
    "contracts": "Not read: []. Duties: cleaning.txt, office.txt, software.txt, supplier.txt.",
    "nightly-report": "On 2026-10-25 there were 121 orders, and 44 tickets about payment (+1239.1%).",
    "research-and-write": "I found it [What the cron host costs].\n\n---\n\nApproved by the editor: true",
    "code-review": "\n\n4 findings.",
}
"""The end of what each example says."""

Shell = Callable[[str], str]


def page(example: str, kind: str) -> list[str]:
    """The blocks of an example's page: `bash` is for a cluster, `sh` for a laptop."""
    text = (EXAMPLES / example / "README.md").read_text()
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def model(team: Team) -> Iterator[None]:
    """The model, and the Secrets that lead the examples to it."""
    if not team.images.worker_llm:
        pytest.skip("no image of workers with language models: E2E_WORKER_LLM_IMAGE names one")
    script = EXAMPLES.parent / "tests" / "examples" / "scripted.py"
    container = {
        "name": MODEL,
        "image": team.images.worker_llm,
        "command": ["python3", "-P", f"/script/{script.name}"],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "script", "mountPath": "/script"}],
    }
    pod = crews.pod(MODEL, container)
    pod["spec"] |= {
        "volumes": [{"name": "script", "configMap": {"name": MODEL}}],
        "terminationGracePeriodSeconds": 1,
    }
    keys = {"OPENAI_API_KEY": "sk-of-nobody", "OPENAI_BASE_URL": f"http://{MODEL}.{NAMESPACE}.svc:{PORT}/v1"}
    mail = {"WATCHBILL_SMTP_URL": "smtp://127.0.0.1:1?starttls=no", "WATCHBILL_SMTP_FROM": "reports@shop.example"}
    service = {"selector": {"app": MODEL}, "ports": [{"port": PORT}]}
    names = {"metadata": {"name": MODEL}}
    try:
        team.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", **names, "data": {script.name: script.read_text()}},
            {"apiVersion": "v1", "kind": "Service", **names, "spec": service},
            pod,
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "model-keys"}, "stringData": keys},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mail"}, "stringData": mail},
        )
        team.kubectl("wait", f"pod/{MODEL}", "--for=condition=Ready", f"--timeout={SOON:.0f}s", timeout=SOON + 30)
        yield
    finally:
        team.kubectl("delete", "crews,heartbeats", "--all")
        team.kubectl("delete", "configmap", *SAID, "--ignore-not-found")
        team.kubectl("delete", f"pod/{MODEL}", f"service/{MODEL}", f"configmap/{MODEL}", "--ignore-not-found")
        team.kubectl("delete", "secret", "model-keys", "mail", "--ignore-not-found")


@pytest.fixture
def shell(team: Team, tmp_path: Path) -> Shell:
    """Runs a script as somebody would whose kubectl works in the release's namespace, and returns what it printed."""
    own = tmp_path / "kubeconfig"
    shutil.copy(team.cluster.kubeconfig, own)
    path = f"{programs.folder()}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "KUBECONFIG": str(own), "PATH": path}

    def run(script: str) -> str:
        words = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(
            words, cwd=install.ROOT, env=environment, capture_output=True, text=True, timeout=2 * SOON
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run(f"kubectl config set-context --current --namespace={NAMESPACE}")
    return run


def lines(team: Team, example: str) -> str:
    """The commands of an example's page, on workers that have a model's libraries. Secrets are there already."""
    block, *_ = page(example, "bash")
    patch = f'\'{{"spec": {{"workers": {{"image": "{team.images.worker_llm}"}}}}}}\''
    block = re.sub(r"(?m)^kubectl create secret .*\n", "", block)
    block = re.sub(r"(?m)^(kubectl apply .*\n)", rf"\1kubectl patch crew {example} --type=merge -p {patch}\n", block)
    if example == "nightly-report":  # what its page says of a laptop comes in place of the last line
        *_, decide = page(example, "sh")
        block = re.sub(r".*\n\Z", "", block) + decide.replace(
            "watchbill ", "kubectl exec deploy/watchbill -- watchbill "
        )
        # A person takes longer than a worker until it attempts the step, and so has it ask for the approval.
        block = re.sub(r"(?m)^(.* approve .*)$", r"until \1; do sleep 0.5; done", block)
    return patient(block)


def test_a_crew_of_each_mode_does_its_work(team: Team, model: None, shell: Shell) -> None:
    specs = {name: yaml.safe_load((EXAMPLES / name / "crew.yaml").read_text())["spec"] for name in SAID}
    modes = {spec.get("executionMode", "sequential") for spec in specs.values()}
    assert modes == {mode.value for mode in ExecutionMode}
    assert [name for name, spec in specs.items() if "requiresApproval" in spec] == ["nightly-report"]
    assert [name for name, spec in specs.items() if spec.get("hierarchy", {}).get("reviewer")] == ["code-review"]
    assert {name for name, spec in specs.items() if any("forEach" in agent for agent in spec["agents"])} == {
        *("contracts", "research-and-write")
    }
    with ThreadPoolExecutor(len(SAID)) as threads:
        said = dict(zip(SAID, threads.map(shell, [lines(team, name) for name in SAID]), strict=True))
    for name, end in SAID.items():
        assert end in said[name], f"{name}: {said[name]}"
