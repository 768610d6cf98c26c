"""Chooses what a crew's workers are made of: the version of the template, and the Secrets and ConfigMaps in it. Pure.

A Deployment stays as long as the crew's template, in any version of ours, and what it refers to are those that its pods
were made with. So an operator that brings another version replaces nobody, and neither does one that begins to look at
Secrets and ConfigMaps: what the pods were made with is taken to be what is there now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from watchbill.api import Crew
from watchbill.plan import manifests, references
from watchbill.plan.children import Child
from watchbill.plan.references import MISSING


@dataclass(frozen=True, slots=True)
class Wanted:
    """The choice of what the workers are made of."""

    template: manifests.Object
    version: int
    """The version of the template."""
    made: manifests.Revision
    replaced: tuple[str, ...] = ()
    """References that have changed, so that other workers take the place of those that are there."""
    outdated: tuple[str, ...] = ()
    """References that have changed, and whose workers stay, because the crew says so."""
    missing: tuple[str, ...] = ()
    """References that a pod can't start without."""
    unread: tuple[str, ...] = ()
    """References that the operator may not read."""


def choose(
    newest: manifests.Object,
    crew: Crew,
    namespace: str,
    defaults: manifests.Defaults,
    children: Sequence[Child],
    config: Mapping[str, str] | None,
) -> Wanted:
    """`newest`: the crew's template in its newest version. `children`: the crew's Deployments. `config`: the states of
    the references that could be read; None: none was looked at."""
    templates: dict[int, tuple[manifests.Object, str]] = {}  # only the newest, for most crews
    kept: list[tuple[int, Wanted]] = []
    replaced: tuple[str, ...] = ()
    for child in sorted(children, key=lambda c: (c.created, c.name), reverse=True):
        for version in range(manifests.newest(), 0, -1):
            if version not in templates:
                is_newest = version == manifests.newest()
                template = newest if is_newest else manifests.pod_template(crew, namespace, defaults, version)
                templates[version] = template, manifests.revision(template)
            template, plain = templates[version]
            if plain in (child.template, child.revision):
                rank, found = _keep(crew, child, template, version, config)
                if found.replaced:
                    replaced = replaced or found.replaced
                else:
                    kept.append((rank, found))
                break
    if kept:
        return min(kept, key=lambda one: one[0])[1]
    return _new(newest, children, config, replaced)


def _keep(
    crew: Crew, child: Child, template: manifests.Object, version: int, config: Mapping[str, str] | None
) -> tuple[int, Wanted]:
    """Returns the Deployment as it is, with `replaced` if it can't stay. Of several that of the lowest number stays."""
    needs, before, there = references.of_template(template), references.read(child.config), config or {}
    missing = _missing(needs, there)
    # Without pods nothing has been made with what was there, and what starts next is made with what there is.
    is_fresh = child.is_idle and version == manifests.newest()
    states, changed = {}, []
    for key in needs:
        was, now = before.get(key), there.get(key)
        if was is None or now is None or was == now:
            states[key] = was if now is None else now
        elif key in missing:  # the workers that run have it, and no others could start
            states[key] = was
        elif is_fresh:
            states[key] = now
        else:
            states[key] = was
            changed.append(key)
    known = {key: value for key, value in states.items() if value is not None}
    rolls = bool(changed) and (crew.spec.workers.rollout_on_change or child.is_idle)
    return 2 if changed else int(known != before), Wanted(
        template,
        version,
        manifests.Revision(child.revision, known),
        replaced=tuple(changed) if rolls else (),
        outdated=() if rolls else tuple(changed),
        missing=missing,
        unread=_unread(needs, config),
    )


def _new(
    template: manifests.Object, children: Sequence[Child], config: Mapping[str, str] | None, replaced: tuple[str, ...]
) -> Wanted:
    needs = references.of_template(template)
    states = {key: config[key] for key in needs if key in config} if config else {}
    name = manifests.revision(template)
    if any(child.revision == name for child in children):  # of the same template, and older Secrets
        name = manifests.revision(template, states)
    made = manifests.Revision(name, states)
    unread = _unread(needs, config)
    return Wanted(template, manifests.newest(), made, replaced, (), _missing(needs, states), unread)


def _missing(needs: Mapping[str, bool], states: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(key for key, optional in needs.items() if not optional and states.get(key) == MISSING)


def _unread(needs: Mapping[str, bool], config: Mapping[str, str] | None) -> tuple[str, ...]:
    return () if config is None else tuple(key for key in needs if key not in config)
