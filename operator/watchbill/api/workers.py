"""The workers of a crew: how many there are, how they are scaled, and what their pods look like. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from watchbill import cluster_names
from watchbill.api.meta import NAME_MAX, Strict
from watchbill.api.problems import Finding, raise_findings


class LocalReference(Strict):
    """An object of the same namespace."""

    name: str = Field(min_length=1, max_length=NAME_MAX, description="Name of the object.")


class EnvFrom(Strict):
    """One Secret or ConfigMap."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "has(self.secretRef) != has(self.configMapRef)",
                    "message": "give exactly one of secretRef and configMapRef. Remove one, or add one",
                }
            ]
        }
    )

    prefix: str = Field(default="", max_length=NAME_MAX, description="Prefix of each name.")
    secret_ref: LocalReference | None = Field(default=None, description="A Secret.")
    config_map_ref: LocalReference | None = Field(default=None, description="A ConfigMap.")

    @model_validator(mode="after")
    def _one(self) -> EnvFrom:
        if (self.secret_ref is None) == (self.config_map_ref is None):
            reason = "give exactly one of secretRef and configMapRef"
            raise_findings(type(self), [Finding(("secretRef",), reason, "Remove one, or add one.")])
        return self


class ScalingPolicy(Strict):
    """One bound of how fast the number of workers changes."""

    type: Literal["Pods", "Percent"] = Field(description="Pods: value is a number of workers. Percent: of those there.")
    value: int = Field(ge=1, le=1000, description="Largest change within one period.")
    period_seconds: int = Field(ge=1, le=1800, description="Seconds of one period.")


_Policies = Annotated[
    list[ScalingPolicy],
    Field(
        max_length=8,
        description="Bounds of the change. Of several the one counts that allows the most; without any there is no "
        "bound.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    ),
]


class ScaleUp(Strict):
    """The pace at which workers are added."""

    stabilization_window_seconds: int = Field(
        default=0,
        ge=0,
        le=3600,
        description="Seconds for which more workers must have been wanted before they are added.",
    )
    policies: _Policies = Field(default_factory=list)
    wait_seconds: int = Field(
        default=60,
        ge=1,
        le=86_400,
        description="Age in seconds of the oldest waiting task from which on it comes before everything that is set "
        "here, as a waiting task of the priority CRITICAL does at once: workers are added without delay, one more than "
        "the tasks fill if all run, and none leaves.",
    )


class ScaleDown(Strict):
    """The pace at which workers leave. Each ends the tasks that it runs before it goes."""

    stabilization_window_seconds: int = Field(
        default=300,
        ge=0,
        le=3600,
        description="Seconds for which fewer workers must have been wanted before some leave. A crew without any task "
        "is scaled to minReplicas after idleSeconds.",
    )
    policies: _Policies = Field(default_factory=list)


class Scaling(Strict):
    """The way in which the number of workers is decided."""

    mode: Literal["Auto", "External"] = Field(
        default="Auto",
        description="Auto: the operator decides, by the tasks in the queue. External: workers.replicas decides, which "
        "kubectl scale, an HPA or KEDA write; within minReplicas and maxReplicas.",
    )
    up: ScaleUp = Field(default_factory=lambda: ScaleUp(), description="The pace at which workers are added.")
    down: ScaleDown = Field(default_factory=lambda: ScaleDown(), description="The pace at which workers leave.")


class Held(Strict):
    """The bound by which a crew has more or fewer workers than its tasks ask for."""

    reason: str = Field(
        max_length=64,
        pattern=r"^[A-Za-z]+$",
        description="StabilizationWindow, ScalingPolicy, TaskWaits, CriticalTaskWaits, WorkersDrain, DeploymentLags, "
        "ReadinessUnseen, WorkersNotReady, OlderWorkers or FiguresUnknown.",
    )
    message: str = Field(max_length=1024, description="The same as a sentence, as of the last write.")


class Workers(Strict):
    """The number of workers of the crew, and their properties."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "self.minReplicas <= self.maxReplicas",
                    "message": "minReplicas is above maxReplicas. Lower minReplicas or raise maxReplicas",
                    "fieldPath": ".minReplicas",
                },
                {
                    "rule": "self.scaling.mode == 'External' || oldSelf.scaling.mode == 'External' "
                    "|| self.replicas == oldSelf.replicas",
                    "message": "replicas is the operator's to decide while scaling.mode is Auto. "
                    "Set scaling.mode: External, or change minReplicas and maxReplicas",
                    "fieldPath": ".replicas",
                },
            ]
        }
    )

    image: str = Field(
        default="", max_length=512, description="Image of the workers. Default: that of the operator's settings."
    )
    min_replicas: int = Field(default=0, ge=0, le=1000, description="Number of workers that stay without work.")
    max_replicas: int = Field(default=20, ge=1, le=1000, description="Largest number of workers.")
    concurrency: int = Field(default=10, ge=1, le=1000, description="Number of tasks that one worker runs at once.")
    idle_seconds: int = Field(
        default=300,
        ge=1,
        le=86_400,
        description="Seconds without a waiting or running task after which the crew is scaled to minReplicas.",
    )
    env_from: list[EnvFrom] = Field(
        default_factory=list,
        max_length=32,
        description="Secrets and ConfigMaps of the namespace whose entries the agents see in their environment.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    redis_secret_ref: LocalReference = Field(
        default_factory=lambda: LocalReference(name=cluster_names.REDIS_SECRET),
        description=f"The Secret of the namespace whose key {cluster_names.REDIS_SECRET_KEY} is the URL of the store.",
        json_schema_extra={"default": {"name": cluster_names.REDIS_SECRET}},
    )
    template: dict[str, Any] = Field(
        default_factory=dict,
        max_length=16,
        description="A partial PodTemplateSpec, merged into the workers': maps deeply, containers, volumes and env by "
        "name, volumeMounts by mountPath, other lists as a whole. The workers' own container is called worker.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    rollout_on_change: bool = Field(
        default=True,
        description="True: when a Secret or ConfigMap changes that the workers' environment or volumes refer to, other "
        "workers take the place of those that are there, as after a change of the template. False: they stay, and the "
        "condition Ready has the reason ConfigOutdated.",
    )
    scaling: Scaling = Field(
        default_factory=lambda: Scaling(), description="Way in which the number of workers is decided."
    )
    replicas: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="Number of workers with scaling.mode External. The scale subresource (kubectl, an HPA) writes it.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Workers:
        if self.min_replicas > self.max_replicas:
            reason = f"minReplicas ({self.min_replicas}) is above maxReplicas ({self.max_replicas})"
            fix = "Lower minReplicas or raise maxReplicas."
            raise_findings(type(self), [Finding(("minReplicas",), reason, fix)])
        return self
