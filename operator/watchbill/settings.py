"""The settings of a process, from its environment: one frozen object, read once, with unit, default and reason per
field.

Every field is `WATCHBILL_<NAME>`. Secrets live in the environment only: nothing here is ever stored or logged.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from watchbill import logs
from watchbill.errors import InvalidInput, Problem

S = TypeVar("S", bound="Settings")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NETWORKS: Final = {
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
    "loopback": ("127.0.0.0/8", "::1/128"),
    "apprise": (),
}


def networks(listed: str) -> tuple[Network, ...]:
    """The networks of a list with commas, of CIDRs and words. Raises ValueError."""
    parts = [part.strip().lower() for part in listed.split(",") if part.strip()]
    return tuple(ipaddress.ip_network(cidr) for part in parts for cidr in _NETWORKS.get(part, (part,)))


class Hard(BaseModel):
    """The bounds of a namespace. None: there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    crews: int | None = Field(default=None, ge=0)
    workers: int | None = Field(default=None, ge=0)
    queued: int | None = Field(default=None, ge=0)


class Quota(BaseModel):
    """The quota of a namespace, shaped like a ResourceQuota's spec."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    hard: Hard = Hard()


class Quotas(BaseModel):
    """The quotas of all namespaces."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    default: Quota = Quota()
    namespaces: dict[str, Quota] = Field(default_factory=dict)

    def of(self, namespace: str) -> tuple[Hard, str]:
        """Returns the bounds of a namespace, and where they stand in the setting."""
        if (own := self.namespaces.get(namespace)) is not None:
            return own.hard, f"quotas.namespaces.{namespace}.hard"
        return self.default.hard, "quotas.default.hard"


class Settings(BaseSettings):
    """Settings of a worker or service process. Raises pydantic's ValidationError on a bad value."""

    model_config = SettingsConfigDict(env_prefix="WATCHBILL_", frozen=True, extra="ignore")

    redis_url: str | None = Field(
        default=None,
        description="The store: redis://, redis+sentinel://, redis+cluster:// (rediss for TLS) or unix://. "
        "Unset: the private store in ./.watchbill/.",
    )
    namespace: str = Field(default="default", description="The namespace of crews that name none.")
    grace_seconds: float = Field(
        default=30,
        ge=0,
        description="After SIGTERM: how long running tasks may go on before they are handed back. "
        "Keep it below a pod's terminationGracePeriodSeconds.",
    )
    health_host: str = Field(default="127.0.0.1", description="Where /healthz, /readyz and /metrics listen.")
    health_port: int | None = Field(default=None, ge=0, le=65535, description="Unset: no HTTP. 0: any free port.")
    watch_namespaces: str = Field(
        default="", description="The operator's namespaces, separated by commas. Empty: the whole cluster."
    )
    worker_image: str = Field(
        default="watchbill-worker:latest", description="The image of workers whose crew names none."
    )
    worker_resources: Json[dict[str, Any]] = Field(
        default="{}",  # type: ignore[arg-type]  # settings validate their defaults, too
        description="The resources of workers whose crew's template names none, as Kubernetes has them, in JSON: "
        '{"limits": {"memory": "1Gi"}}.',
    )
    installation: str = Field(
        default="default/watchbill",
        description="Which operator this is: the sweep removes only what this one wrote.",
    )
    resync_seconds: float = Field(
        default=300, gt=0, description="How often the operator lists everything anew, and sweeps up what is gone."
    )
    references_seconds: float = Field(
        default=300,
        gt=0,
        description="How often the operator looks, at least, whether a Secret or ConfigMap has changed that workers "
        "refer to.",
    )
    lease: str = Field(
        default="",
        examples=["a namespace and a name, as in watchbill/watchbill"],
        pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-.a-z0-9]*[a-z0-9])?)?$",
        description="The Lease by which the replicas of an operator choose a leader, as NAMESPACE/NAME. "
        "Empty: this is the only replica.",
    )
    lease_seconds: float = Field(
        default=15,
        ge=1,
        description="How long the Lease lasts. A leader that can't renew it stops after two thirds; another one leads "
        "after the whole.",
    )
    quotas: Json[Quotas] = Field(  # type: ignore[assignment]  # settings validate their defaults, too
        default="{}",
        description="How many crews, workers and queued tasks a namespace may have, in JSON: "
        '{"default": {"hard": {"crews": 20, "workers": 50, "queued": 500000}}, "namespaces": {"team": {"hard": {}}}}. '
        "A namespace that is named has its own bounds in place of the default ones. What `hard` leaves out has none.",
    )
    heartbeat_status_seconds: float = Field(
        default=60,
        gt=0,
        description="How often the operator writes times and results of one Heartbeat into its status, at most.",
    )
    redis_acl_per_crew: bool = Field(
        default=False,
        description="The operator makes a user in the store for each crew, and a Secret with its password.",
    )
    redis_acl_rotate_seconds: float = Field(
        default=0, ge=0, description="The age at which the operator replaces the password of a crew's user. 0: never."
    )
    allow_modules: str = Field(
        default="",
        examples=["names of modules, separated by commas, as in acme.agents,acme.tools"],
        pattern=r"^\s*([^\W\d]\w*(\.[^\W\d]\w*)*\s*(,\s*|$))*$",
        description="Installed modules and packages, with all in them, that crews may name as agents and tools, "
        "separated by commas; besides Watchbill's own, entry points and the crew's folders.",
    )
    model_hosts: str = Field(
        default="",
        description="Hosts that may be sent a model's key, separated by commas, as in models.example.com or "
        "*.example.org; besides the provider's own, this machine, and what OPENAI_BASE_URL and its like name.",
    )
    delivery_allow: str = Field(
        default="",
        examples=["networks, separated by commas, as in 10.20.0.0/16, or the words private, loopback and apprise"],
        description="Networks inside that results may be delivered to, over http:// too, separated by commas: CIDRs, "
        "or the words private (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7) and loopback. The word apprise "
        "allows that channel, which may connect anywhere. Empty: only public addresses, over https://.",
    )
    allow_commands: str = Field(
        default="",
        examples=["the beginnings of command lines, separated by commas, as in mcp-server-git,python -m acme.mcp"],
        description="Commands of tool servers that a worker may start, by the beginnings of their command lines, "
        "separated by commas. `watchbill run` starts what its file names.",
    )
    tools_allow: str = Field(
        default="",
        examples=["networks, separated by commas, as in 10.20.0.0/16, or the words private and loopback"],
        description="Networks inside that tool servers and HTTP tools may be in, over http:// too, as in "
        "WATCHBILL_DELIVERY_ALLOW. Empty: only public addresses, over https://.",
    )
    delivery_timeout_seconds: float = Field(
        default=20, gt=0, le=300, description="How long a destination may take to accept a result."
    )
    smtp_url: str = Field(
        default="",
        description="The server that takes mail: smtp://USER:PASSWORD@HOST:587 with STARTTLS, smtps://…:465 with TLS "
        "from the beginning; smtp://HOST:25?starttls=no sends in the clear, and takes no password.",
    )
    smtp_from: str = Field(default="", description="The address that mail comes from, as in crews@example.com.")
    telegram_url: str = Field(
        default="https://api.telegram.org", description="The server of Telegram's Bot API; for one of your own."
    )
    log_level: str = Field(
        default="WARNING",
        description="DEBUG, INFO, WARNING or ERROR: which lines are logged on stderr. On the command line -v, -vv and "
        "-q say more and less than this.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="text or json: how lines are logged on stderr. docs/logs.md tells the fields."
    )
    trace_content: bool = Field(
        default=False,
        description="Spans may have prompts, answers, arguments and results of tools, and messages of errors.",
    )
    otel_exporter_otlp_endpoint: str = Field(
        default="",
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        examples=["the URL of the collector, as in http://otel-collector:4318"],
        pattern=r"^(https?://\S+)?$",
        description="The collector that traces are sent to, by OTLP over HTTP. Empty: no traces. docs/tracing.md",
    )
    otel_traces_sampler: str = Field(
        default="",
        validation_alias="OTEL_TRACES_SAMPLER",
        pattern="^((parentbased_)?(always_on|always_off|traceidratio))?$",
        examples=["a sampler, as in parentbased_traceidratio"],
        description="Which traces are recorded: always_on, always_off or traceidratio; with parentbased_ before it, as "
        "the submitter's trace is, if there is one. Empty: parentbased_always_on.",
    )
    otel_traces_sampler_arg: str = Field(
        default="",
        validation_alias="OTEL_TRACES_SAMPLER_ARG",
        pattern=r"^([01]|1\.0*|0?\.\d+|\d(\.\d+)?e-\d+)?$",
        examples=["a share from 0 to 1, as in 0.01"],
        description="The share of traces that a sampler with traceidratio records, from 0 to 1.",
    )
    otel_resource_attributes: str = Field(
        default="",
        validation_alias="OTEL_RESOURCE_ATTRIBUTES",
        description="What spans say of their process besides: NAME=VALUE, separated by commas.",
    )
    secret_names: str = Field(
        default="",
        description="Names of variables whose values are secrets though no word of theirs says so, separated by "
        "commas, with * for any letters; -NAME takes one out. The first that fits decides: STAGE_*_PIN,-SORT_KEY.",
    )

    @field_validator("log_level")
    @classmethod
    def _known(cls, level: str) -> str:
        if level.upper() not in logs.LEVELS:
            raise ValueError(f"it is none of {', '.join(logs.LEVELS)}")
        return level.upper()

    @field_validator("delivery_allow", "tools_allow")
    @classmethod
    def _networks(cls, listed: str) -> str:
        networks(listed)
        return listed

    @property
    def of_tracing(self) -> dict[str, str]:
        """The variables that a worker needs to trace as this process does; none while it doesn't."""
        if not self.otel_exporter_otlp_endpoint:
            return {}
        found = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.otel_exporter_otlp_endpoint,
            "OTEL_TRACES_SAMPLER": self.otel_traces_sampler,
            "OTEL_TRACES_SAMPLER_ARG": self.otel_traces_sampler_arg,
            "OTEL_RESOURCE_ATTRIBUTES": self.otel_resource_attributes,
            "WATCHBILL_TRACE_CONTENT": "true" if self.trace_content else "",
        }
        return {name: value for name, value in found.items() if value}

    @property
    def delivery_networks(self) -> tuple[Network, ...]:
        """The networks that delivery_allow names."""
        return networks(self.delivery_allow)

    @property
    def delivers_by_apprise(self) -> bool:
        """True if delivery_allow has the word apprise."""
        return "apprise" in (part.strip().lower() for part in self.delivery_allow.split(","))

    @property
    def allowed_modules(self) -> tuple[str, ...]:
        return tuple(filter(None, (module.strip() for module in self.allow_modules.split(","))))


def variable_of(kind: type[Settings], name: str) -> str:
    """Returns the variable of a setting."""
    return str(kind.model_fields[name].validation_alias or f"{kind.model_config['env_prefix']}{name}".upper())


def read(kind: type[S]) -> S:
    """The settings of that kind. Raises InvalidInput, which names the variables and shows no password."""
    try:
        return kind()
    except ValidationError as error:
        problems = []
        fields = {
            field.validation_alias or name: (variable_of(kind, name), field)
            for name, field in kind.model_fields.items()
        }
        for detail in error.errors(include_url=False):
            variable, field = fields[str(detail["loc"][0])]
            place = ".".join([variable, *map(str, detail["loc"][1:])])
            example = (field.examples or [""])[0]
            if detail["type"] == "missing":
                problems.append(Problem(f"{variable} is missing", f"Set it to {example}."))
            elif detail["type"] == "string_pattern_mismatch" and example:  # which says more than the pattern
                problems.append(Problem(f"{detail['input']!r} can't be used", f"Set it to {example}.", path=place))
            else:
                reason = f"{detail['input']!r} can't be used: {detail['msg'].removeprefix('Value error, ')}"
                problems.append(Problem(reason, f"Set it to {example}." if example else "Correct it.", path=place))
        raise InvalidInput(problems) from None
