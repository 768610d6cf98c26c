"""README's cluster quickstart works as it is written: its `bash` blocks, in order, in one shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import watchbill
from e2e.cluster import docker, install, programs
from e2e.cluster.kind import Cluster
from e2e.cluster.kubectl import Kubectl
from e2e.kind.team import patient

NAMESPACE = "quickstart"


@pytest.fixture
def public_names(kind_cluster: Cluster) -> Iterator[None]:
    """The images under the names that the chart takes by default, on the nodes."""
    if not kind_cluster.kind_name:
        pytest.skip("the images' public names can only be given to the nodes of a kind cluster")
    made = install.prepared(kind_cluster)
    version = watchbill.__version__
    names = {
        made.operator: f"watchbill/operator:{version}",
        made.worker: f"watchbill/worker:{version}",
        made.valkey: install.PUBLIC_VALKEY_IMAGE,
    }
    try:
        for image, public in names.items():
            docker.docker("tag", image, public)
        kind_cluster.load(*names.values())
        yield
    finally:
        docker.docker("image", "rm", *filter(docker.has_image, names.values()))


def test_the_cluster_quickstart_works_as_it_is_written(
    public_names: None, kind_cluster: Cluster, kubectl: Kubectl, tmp_path: Path
) -> None:
    text = (install.ROOT / "README.md").read_text()
    script = "".join(re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert "helm install" in script
    assert install.NEXT in script, "what `make e2e-up` prints is not what README says"
    own = tmp_path / "kubeconfig"
    shutil.copy(kind_cluster.kubeconfig, own)
    environment = {
        **os.environ,
        "KUBECONFIG": str(own),
        "PATH": f"{programs.folder()}:{os.environ['PATH']}",
        **{f"HELM_{home}_HOME": str(tmp_path) for home in ("CACHE", "CONFIG", "DATA")},
    }
    kubectl("create", "namespace", NAMESPACE)
    prefix = f"kubectl config set-context --current --namespace={NAMESPACE} > /dev/null\n"
    try:
        done = subprocess.run(
            ["bash", "-euc", prefix + patient(script)],
            cwd=install.ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert "Most likely cause: out of memory" in done.stdout
    finally:
        kubectl("delete", "crews", "--all", f"--namespace={NAMESPACE}", "--ignore-not-found")
        install.helm(kind_cluster, "uninstall", install.RELEASE, f"--namespace={NAMESPACE}", "--ignore-not-found")
        kubectl("delete", "namespace", NAMESPACE, "--timeout=300s", timeout=360)
        kubectl.delete_crds("crews.watchbill.dev", "heartbeats.watchbill.dev")
