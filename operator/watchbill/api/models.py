"""Fields of a Crew about language models, besides their names: models that stand in, schemas of outputs. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from watchbill.api.meta import NAME_MAX, Strict
from watchbill.api.problems import Finding, Hint, refuse

LLM_AGENT: Final = ("LLMAgent", "watchbill.agents.llm:LLMAgent")
"""The names of the class that needs a model."""
FALLBACKS_MAX: Final = 8
OPENAI: Final = ("openai", "openai-chat", "openai-responses")
"""The providers whose models are asked at `spec.baseURL`."""

_WITH_USER: Final = "^[^/]*//[^/?#]*@"
_KEY: Final = re.compile(
    r"(api|access|auth|secret)[-_]?(key|token)|key|token|secret|password|authorization|bearer", re.I
)


def _without_user(url: str) -> str:
    if re.match(_WITH_USER, url):
        refuse(
            "baseURL has a user or password in it, which whoever may read the crew would see",
            "Remove it: the key belongs into the workers' environment.",
        )
    return url


BaseUrl = Annotated[
    str,
    Field(max_length=2048, pattern="^(https?://.*)?$"),
    Hint("Begin it with http:// or https://."),
    AfterValidator(_without_user),
]
"""The URL of a model's server. Its owner needs `no_user_rule`."""


def no_user_rule(owner: str = "self") -> dict[str, Any]:
    """CEL: no user and no password in `baseURL`. Not a pattern, because the API server quotes what fails one."""
    return {
        "rule": f"!has({owner}.baseURL) || !{owner}.baseURL.matches('{_WITH_USER}')",
        "message": "baseURL has a user or password in it. Remove it: the key belongs into the workers' environment",
        "fieldPath": ".baseURL",
    }


class FallbackModel(Strict):
    """A model that is asked when those before it don't answer."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [no_user_rule()]})

    model: str = Field(
        min_length=1, max_length=NAME_MAX, description="Name of the model, for example anthropic:claude-sonnet-4-5."
    )
    base_url: BaseUrl = Field(
        default="",
        alias="baseURL",
        description="URL of its server, as in an agent's baseURL. Default: spec.baseURL, or the provider's own.",
    )


FallbackModels = Annotated[
    list[FallbackModel],
    Field(
        max_length=FALLBACKS_MAX,
        description="Models to ask, in this order, when the one before is out, or refuses to answer.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    ),
]
OutputSchema = Annotated[
    dict[str, Any],
    Field(
        max_length=64,
        description="JSON Schema of the output of an LLMAgent: an object. The model is told what doesn't fit it.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    ),
]


class ModelChoice(BaseModel):
    """A model as a crew's record has it, and the server that it is asked at; None for its provider's own."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    model: str
    base_url: str | None = None

    @classmethod
    def of(cls, written: FallbackModel) -> Self:
        """The choice that is stored."""
        return cls(model=written.model, base_url=written.base_url or None)

    def as_written(self) -> dict[str, str]:
        """The fields by the names that they have in YAML."""
        return {"model": self.model, **({"baseURL": self.base_url} if self.base_url else {})}


def key_in_config(config: Mapping[str, Any]) -> Finding | None:
    """The finding about a key of a provider that is written into the config of an LLMAgent; None if there is none."""
    for name in config:
        if _KEY.fullmatch(str(name)):
            reason = f"{name!r} is a key, which whoever may read the crew would see"
            fix = (
                "Remove it, and set the provider's variable, as in OPENAI_API_KEY, in the workers' environment: "
                "workers.envFrom takes it from a Secret."
            )
            return Finding(("config", name), reason, fix)
    return None
