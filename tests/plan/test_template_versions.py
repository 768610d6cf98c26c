"""Versions of the template: each release's is kept as a file, and another version replaces no worker that runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import golden_templates
import pytest
import yaml
from crew_plans import DEFAULTS, applied, child, conditions, crew, planned, seen, settled, stored

from watchbill.plan import children, manifests

pytestmark = pytest.mark.pure

VERSIONS = range(1, manifests.newest() + 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_renders_what_its_release_rendered(version: int) -> None:
    golden = yaml.safe_load(golden_templates.file(version).read_text("utf-8"))
    assert golden_templates.render(version) == golden, (
        "what running workers are made from has changed, and all of them would be replaced: see manifests.BEFORE"
    )


def test_each_version_has_its_file_and_differs_from_the_others() -> None:
    assert sorted(golden_templates.FOLDER.iterdir()) == sorted(map(golden_templates.file, VERSIONS))
    texts = {golden_templates.file(version).read_text("utf-8") for version in VERSIONS}
    assert len(texts) == len(VERSIONS)


# ---------------------------------------------------------------- an operator with another version


@pytest.fixture
def add_version(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Adds a version that has a default more than the one before: that one had no `enableServiceLinks`."""

    def without(template: dict[str, Any]) -> None:
        del template["spec"]["enableServiceLinks"]

    return lambda: monkeypatch.setattr(manifests, "BEFORE", (*manifests.BEFORE, without))


def older(workers: dict[str, Any], replicas: int = 2) -> children.Child:
    """A Deployment as the version before the newest has it."""
    of = crew(**workers)
    template = manifests.pod_template(of, "team", DEFAULTS, manifests.newest() - 1)
    return stored(manifests.deployment(of, "team", "u1", template, replicas), readyReplicas=replicas, replicas=replicas)


def test_a_new_default_replaces_nobody_until_the_crews_own_template_changes(add_version: Callable[[], None]) -> None:
    add_version()
    newest = manifests.newest()
    there = older({"minReplicas": 2})
    made = planned(settled(crew(minReplicas=2), 2, children=[there]))
    assert (made.applies, made.drain, made.deletes) == ((), (), ())
    assert made.revision == there.revision
    assert made.status is not None
    assert made.status["templateVersion"] == newest - 1

    grown = planned(settled(crew(minReplicas=5), 2, children=[there]))
    manifest = applied(grown)
    assert manifest["metadata"]["name"] == there.name
    assert manifest["spec"]["replicas"] == 5
    assert "enableServiceLinks" not in manifest["spec"]["template"]["spec"], "the pods would be replaced"

    changed = planned(settled(crew(minReplicas=2, image="mine:2"), 2, children=[there]))
    assert changed.revision != there.revision
    assert applied(changed)["spec"]["template"]["spec"]["enableServiceLinks"] is False
    assert changed.status is not None
    assert changed.status["templateVersion"] == newest


def test_a_new_crew_gets_the_newest_version(add_version: Callable[[], None]) -> None:
    add_version()
    made = planned(seen())
    assert applied(made)["spec"]["template"]["spec"]["enableServiceLinks"] is False
    assert made.status is not None
    assert made.status["templateVersion"] == manifests.newest()


def test_a_changed_secret_brings_the_newest_version(add_version: Callable[[], None]) -> None:
    add_version()
    config = {"Secret/watchbill-redis": "1"}
    there = dataclasses.replace(older({"minReplicas": 2}), config=json.dumps(config))
    of = crew(minReplicas=2)
    assert planned(settled(of, 2, children=[there], config=config)).revision == there.revision
    made = planned(settled(of, 2, children=[there], config={"Secret/watchbill-redis": "2"}))
    assert applied(made)["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_a_crew_of_an_operator_that_knew_no_versions_keeps_its_workers() -> None:
    of = crew(minReplicas=2)
    there = dataclasses.replace(older_release(), replicas=2, ready=2, there=2)
    before = settled(of, 2).status
    status = {key: value for key, value in before.items() if key != "templateVersion"}
    config = {"Secret/watchbill-redis": "1"}
    made = planned(settled(of, 2, children=[there], config=config, status=status))
    assert (made.drain, made.deletes, made.sizes) == ((), (), ())
    manifest = applied(made)
    assert manifest["metadata"]["name"] == there.name
    assert manifest["metadata"]["resourceVersion"] == there.resource_version
    assert manifest["spec"] == json.loads(there.content)["spec"], "only annotations are new, which replace no pod"
    assert made.status is not None
    assert made.status["templateVersion"] == 1
    assert conditions(made.status) == {"Ready": ("True", "Available")}
    # From then on a change counts.
    marked = stored(manifest, readyReplicas=2, replicas=2)
    assert planned(settled(of, 2, children=[marked], config=config)).applies == ()
    assert planned(settled(of, 2, children=[marked], config={"Secret/watchbill-redis": "2"})).revision != there.revision


def older_release() -> children.Child:
    of = crew(minReplicas=2)
    manifest = manifests.deployment(of, "team", "u1", manifests.pod_template(of, "team", DEFAULTS, 1), 2)
    del manifest["metadata"]["annotations"]
    return stored(manifest)


def test_edited_annotations_are_put_right_and_replace_nobody() -> None:
    there = dataclasses.replace(child(crew(minReplicas=1), 1, readyReplicas=1), there=1)
    for template, config in (("x", there.config), (there.template, "no JSON"), ("", "")):
        content = there.content.replace("watchbill.dev/config", "gone")
        edited = dataclasses.replace(there, template=template, config=config, content=content)
        made = planned(settled(crew(minReplicas=1), 1, children=[edited]))
        assert applied(made)["metadata"]["name"] == there.name
        assert made.deletes == ()
