"""Tokens of pods are short-lived: what is read is what the file says now."""

from __future__ import annotations

from pathlib import Path

import pytest
from kubernetes.aio.config import incluster_config, kube_config

from watchbill import kubernetes_credentials
from watchbill.controller import watch


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a pod finds; the path is its token's."""
    token, certificate = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("first\n")
    certificate.write_text("a certificate")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(certificate))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return token


async def test_each_login_reads_the_token_anew(pod: Path) -> None:
    first = await watch._login()
    assert (first.server, first.token, first.ca_path) == ("https://10.0.0.1:443", "first", str(pod.parent / "ca.crt"))
    assert first.as_http_headers() == {"Authorization": "bearer first"}
    pod.write_text("second")
    assert (await watch._login()).token == "second"


async def test_a_kubeconfig_says_it_outside_of_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    (tmp_path / "token").write_text("mine")
    (tmp_path / "config").write_text(
        '{"clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": true}}],'
        '"users": [{"name": "u", "user": {"tokenFile": "token"}}],'
        '"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}'
    )
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    found = await kubernetes_credentials.credentials()
    assert (found.server, found.token, found.insecure) == ("https://127.0.0.1:1", "mine", True)


async def test_the_environment_names_the_proxy_for_both_clients(pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert (await watch._login()).proxy_url == "http://proxy:3128"
    assert (await kubernetes_credentials.configuration()).proxy == "http://proxy:3128"
    monkeypatch.setenv("NO_PROXY", "10.0.0.1")
    assert (await watch._login()).proxy_url is None
