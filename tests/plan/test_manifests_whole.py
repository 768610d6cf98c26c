"""The children of a small crew in full, as `kubectl get --output yaml` would show them."""

from __future__ import annotations

import pytest
import yaml

from watchbill.api import Crew
from watchbill.plan import manifests

pytestmark = pytest.mark.pure

CREW = Crew.model_validate(
    {
        "metadata": {"name": "blog"},
        "spec": {
            "agents": [{"name": "a", "class": "EchoAgent"}],
            "workers": {"envFrom": [{"secretRef": {"name": "keys"}}]},
        },
    }
)
DEFAULTS = manifests.Defaults("watchbill:1", {"limits": {"memory": "1Gi"}}, "acme")

METADATA = """
  namespace: team
  ownerReferences:
  - {apiVersion: watchbill.dev/v1alpha1, kind: Crew, name: blog, uid: u1, controller: true, blockOwnerDeletion: true}
  labels: &labels
    app.kubernetes.io/name: watchbill
    app.kubernetes.io/component: worker
    app.kubernetes.io/managed-by: watchbill
    watchbill.dev/crew: blog
"""

SERVICE_ACCOUNT = f"""
apiVersion: v1
kind: ServiceAccount
metadata:
  name: blog-worker{METADATA}
automountServiceAccountToken: false
"""

DEPLOYMENT = f"""
apiVersion: apps/v1
kind: Deployment
metadata:
  name: blog-HASH_OF_TEMPLATE{METADATA}
    watchbill.dev/revision: HASH_OF_TEMPLATE
  annotations: {{watchbill.dev/template: HASH_OF_TEMPLATE, watchbill.dev/config: '{{}}'}}
spec:
  replicas: 3
  revisionHistoryLimit: 0
  progressDeadlineSeconds: 300
  selector: {{matchLabels: {{watchbill.dev/crew: blog, watchbill.dev/revision: HASH_OF_TEMPLATE}}}}
  template:
    metadata:
      labels: *labels
      annotations: {{cluster-autoscaler.kubernetes.io/safe-to-evict: 'false'}}
    spec:
      serviceAccountName: blog-worker
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 60
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
      - name: worker
        image: watchbill:1
        env:
        - {{name: WATCHBILL_REDIS_URL, valueFrom: {{secretKeyRef: {{name: watchbill-redis, key: url}}}}}}
        - {{name: WATCHBILL_CREW, value: team/blog}}
        - name: WATCHBILL_REVISION
          valueFrom: {{fieldRef: {{fieldPath: "metadata.labels['watchbill.dev/revision']"}}}}
        - {{name: WATCHBILL_HEALTH_HOST, value: 0.0.0.0}}
        - {{name: WATCHBILL_HEALTH_PORT, value: '8080'}}
        - {{name: WATCHBILL_GRACE_SECONDS, value: '55'}}
        - {{name: WATCHBILL_ALLOW_MODULES, value: acme}}
        envFrom:
        - secretRef: {{name: keys}}
        ports:
        - {{name: health, containerPort: 8080, protocol: TCP}}
        readinessProbe: {{httpGet: {{path: /readyz, port: 8080}}, periodSeconds: 2}}
        livenessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 10, failureThreshold: 30}}
        resources: {{limits: {{memory: 1Gi}}}}
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {{drop: [ALL]}}
        volumeMounts:
        - {{name: tmp, mountPath: /tmp}}
      volumes:
      - {{name: tmp, emptyDir: {{sizeLimit: 1Gi}}}}
"""


def test_the_deployment_of_a_crew_is_all_that_server_side_apply_is_to_own() -> None:
    template = manifests.pod_template(CREW, "team", DEFAULTS)
    expected = yaml.safe_load(DEPLOYMENT.replace("HASH_OF_TEMPLATE", manifests.revision(template)))
    assert manifests.deployment(CREW, "team", "u1", template, 3) == expected


def test_the_service_account_of_a_crew_is_all_that_server_side_apply_is_to_own() -> None:
    assert manifests.service_account(CREW, "team", "u1") == yaml.safe_load(SERVICE_ACCOUNT)


def test_lists_of_one_name_in_other_places_are_replaced_as_a_whole() -> None:
    base = {
        "tolerations": [{"name": "a", "x": 1}],
        "env": [{"name": "a", "x": 1}],
        "volumeMounts": [{"mountPath": "a"}],
    }
    over = {"tolerations": [{"name": "a"}], "env": [{"name": "a", "y": 2}], "volumeMounts": [{"mountPath": "b"}]}
    assert manifests.merge(base, over) == {
        "tolerations": [{"name": "a"}],
        "env": [{"name": "a", "x": 1, "y": 2}],
        "volumeMounts": [{"mountPath": "a"}, {"mountPath": "b"}],
    }
    assert manifests.merge({"env": {"a": 1}}, {"env": [{"name": "b"}]}) == {"env": [{"name": "b"}]}


@pytest.mark.parametrize("field", ["containers", "initContainers", "volumes", "env"])
def test_an_item_that_has_no_name_stands_behind_those_that_have_one(field: str) -> None:
    merged = manifests.merge(
        {field: [{"name": "a"}, "text"]}, {field: [{"name": 5}, {"name": "b"}, {"name": "a", "x": 1}]}
    )
    assert merged == {field: [{"name": "a", "x": 1}, {"name": "b"}, "text", {"name": 5}]}


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        *(("1n", "0.000000001"), ("1u", "0.000001"), ("1m", "0.001"), ("1k", "1000"), ("1M", "1000000")),
        *(("1G", "1000M"), ("1T", "1000G"), ("1P", "1000T"), ("1E", "1000P")),
        *(("1Ki", "1024"), ("1Mi", "1024Ki"), ("1Gi", "1024Mi"), ("1Ti", "1024Gi"), ("1Pi", "1024Ti")),
        ("1Ei", "1024Pi"),
        *(("+1.50", "1500m"), ("-1", "-1000m"), ("1E3", "1k"), ("1e-3", "1m"), ("12E+2", "1200")),
    ],
)  # fmt: skip
def test_a_quantity_amounts_to_what_kubernetes_says(written: str, stored: str) -> None:
    for field in ("resources", "overhead", "sizeLimit"):
        assert manifests.contains({field: {"x": stored}}, {field: {"x": written}})
        assert not manifests.contains({field: {"x": f"{stored}1"}}, {field: {"x": written}})
    assert not manifests.contains({"other": {"x": stored}}, {"other": {"x": written}})


@pytest.mark.parametrize("none", ["1.2.3", "", "1 Gi", "much", "1Gi2", "."])
def test_what_is_no_quantity_is_only_itself(none: str) -> None:
    assert manifests.contains({"resources": {"x": none}}, {"resources": {"x": none}})
    assert not manifests.contains({"resources": {"x": "1"}}, {"resources": {"x": none}})
    assert not manifests.contains({"resources": {"x": "much of it"}}, {"resources": {"x": none}})


@pytest.mark.parametrize(
    ("observed", "desired", "is_there"),
    [
        ([1, 2], [1], False),
        ([1], [1], True),
        ([1], [2], False),
        ([{"name": "a"}, {"name": "b", "x": 1}, "text"], [{"name": "b"}], True),
        ([{"name": "a"}], [{"name": "a"}, {"name": "b"}], False),
        ([{"name": "a", "x": 1}], [{"name": "a", "x": 2}], False),
        ([{"name": "a"}, {"x": 1}], [{"name": "a"}, {"x": 1}], True),
        ([{"x": 1}, {"name": "a"}], [{"name": "a"}, {"x": 1}], False),
        ("a", ["a"], False),
        ({}, [], True),
        (None, {}, False),
        ({"a": None}, {"a": None}, True),
        ({"resources": {"a": "x"}}, {"resources": {"a": {}}}, False),
        ({"resources": {"a": {}}}, {"resources": {"a": "x"}}, False),
    ],
)
def test_what_is_desired_is_looked_for_by_its_name_or_at_its_place(
    observed: object, desired: object, is_there: bool
) -> None:
    assert manifests.contains(observed, desired) is is_there
