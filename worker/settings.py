"""Every setting, once: its name, default, unit and meaning.

Rule: read once, at the start, from `DIAGNOSIS_*` variables or the TOML file that
`DIAGNOSIS_CONFIG` names (variables win). `docs/settings.md` is made from this file. Models' URLs and
keys stand here and nowhere else: a request only names them.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pydantic
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from worker.core.rates import MOST_PER_MINUTE, MOST_SLOTS, START_SLOTS, Limits, Rates
from worker.errors import Misconfigured
from worker.limits.keys import account_name

__all__ = [
    "MOST_USD",
    "JudgeSettings",
    "Settings",
    "StudentSettings",
    "TeacherSettings",
    "account_scope",
    "load_settings",
]


#: Accounts that last longer than a session.
_SCOPE = re.compile(r"fleet|(tenant|campaign):[a-z0-9](\.?[a-z0-9_-])*")
#: What every counter of the ledger holds exactly, in US dollars.
MOST_USD = 9_007_199


class _Named(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _per_minute(what: str) -> Any:  # noqa: ANN401 - a field, as pydantic's own `Field`
    return Field(
        None,
        ge=1,
        le=MOST_PER_MINUTE,
        description=f"{what} a minute, for each group of models and the whole fleet. The provider's "
        "own word (its headers) only lowers it; with None it is all there is.",
    )


class StudentSettings(_Named):
    """A student that requests may name: an OpenAI-compatible chat endpoint."""

    base_url: str = Field(description="Up to and including `/v1`.")
    model: str = Field(description="Model name sent with each request.")
    api_key: SecretStr = Field(SecretStr(""), description="Bearer token; empty sends none.")
    system_prompt: str | None = Field(None, description="Sent before each task; none if absent.")
    timeout_ms: int = Field(60_000, ge=100, description="For one answer, from first to last byte.")
    max_tokens: int = Field(1_024, ge=1, description="Limit of one answer.")
    temperature: float | None = Field(0.7, ge=0, le=2, description="None leaves it to the server.")
    max_concurrency: int | None = Field(
        None,
        ge=1,
        le=MOST_SLOTS,
        description="Runs at once on this server, in the whole fleet; with None as many as there "
        "are, until it answers 429, 503, not in time or three times slower than before.",
    )

    @property
    def limits(self) -> Limits:
        """How many runs at once its server is given."""
        return Limits(most=self.max_concurrency, watches_latency=True)

    @property
    def account(self) -> str:
        """What shares these limits: all students behind one address."""
        return account_name("student", self.base_url.rstrip("/"))


class TeacherSettings(_Named):
    """A teacher that requests may name: an account at the Anthropic Messages API."""

    model: str = Field("claude-opus-4-6", description="Must have a price.")
    base_url: str = Field("https://api.anthropic.com", description="Where the Messages API is.")
    api_key: SecretStr = Field(SecretStr(""), description="The account's key.")
    max_output_tokens: int = Field(8_192, ge=256, le=64_000, description="Limit of one turn.")
    extraction_model: str | None = Field(
        None,
        description="Asked for the clusters alone, where a diagnosis holds none that can be read; "
        "a cheaper one does. None takes `model`.",
    )
    prewarm: bool = Field(
        True,
        description="Of sessions that begin at once, one goes first until tools and system prompt "
        "are in the prompt cache, and the others wait, seconds; false lets each pay for writing them.",
    )
    simulated: bool = Field(False, description="Marks everything it says as simulated.")
    requests_per_minute: int | None = _per_minute("Requests")
    input_tokens_per_minute: int | None = _per_minute("Prompt tokens that no cache has")
    output_tokens_per_minute: int | None = _per_minute("Tokens of replies")
    max_concurrency: int | None = Field(
        None, ge=1, le=MOST_SLOTS, description="Calls at once, in the whole fleet; None has no end."
    )
    rate_account: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9.-]{0,50}$",
        description="Teachers with the same name here share their limits; None shares among those "
        "with the same address and key. For several keys of one organization.",
    )
    rate_group: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9.-]{0,39}$",
        description="Models with the same name here share their limits; None takes each model's "
        "family and major version, as `opus-4`.",
    )

    @property
    def cache_account(self) -> str:
        """Whose prompt cache it is: that of the key at the address."""
        return account_name("teacher", self.base_url.rstrip("/"), self.api_key.get_secret_value())

    @property
    def limits(self) -> Limits:
        """How fast each group of models is called."""
        return Limits(
            rates=Rates(
                requests=self.requests_per_minute,
                input_tokens=self.input_tokens_per_minute,
                output_tokens=self.output_tokens_per_minute,
            ),
            most=self.max_concurrency,
            start=START_SLOTS,
        )

    @property
    def account(self) -> str:
        """What shares these limits: a provider's account, by its key unless it has a name."""
        if self.rate_account is not None:
            return f"teacher-{self.rate_account}"
        return account_name("teacher", self.base_url.rstrip("/"), self.api_key.get_secret_value())


class JudgeSettings(_Named):
    """A judge that requests may name: a model of one of the teachers' accounts."""

    teacher: str = Field("default", description="Whose account pays: a name in `teachers`.")
    model: str | None = Field(None, description="None takes the teacher's own model.")


_Model = TypeVar("_Model", StudentSettings, TeacherSettings)


class Settings(BaseSettings):
    """All settings of workers and command line."""

    model_config = SettingsConfigDict(
        env_prefix="DIAGNOSIS_", extra="forbid", frozen=True, env_nested_delimiter="__"
    )

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Journal and ledger. Needs AOF with `appendfsync always` and `noeviction`.",
    )
    broker_url: SecretStr | None = Field(
        None, description="Celery's broker; None takes database 1 of `redis_url`'s server."
    )
    result_url: SecretStr | None = Field(
        None, description="Where sessions' results are kept; None takes the broker."
    )
    key_prefix: str = Field(
        "diagnosis",
        pattern=r"^[a-z0-9-]{1,40}$",
        description="Prefix of all Redis keys; several fleets can share a server.",
    )
    result_ttl_s: int = Field(
        14 * 86_400, ge=60, description="How long a session's result stays readable."
    )

    s3_endpoint: str | None = Field(None, description="None is AWS; else the store's URL.")
    s3_region: str = Field("us-east-1", description="Region of the bucket.")
    s3_bucket: str = Field("diagnosis", description="Bucket of bundles and artifacts.")
    s3_access_key: SecretStr | None = Field(
        None, description="None leaves credentials to boto3's own chain (roles, profiles)."
    )
    s3_secret_key: SecretStr | None = Field(None, description="Goes with `s3_access_key`.")

    cache_dir: Path = Field(
        Path("/tmp/diagnosis-cache"),  # noqa: S108 - a cache; contents are verified by hash
        description="Where workers keep bundles; may be lost at any time.",
    )
    cache_max_bytes: int = Field(
        5_000_000_000, ge=1_000_000, description="Size at which old bundles leave the cache."
    )

    spool_dir: Path | None = Field(
        None,
        description="Where replies lie that were paid for and are not committed yet, for whoever takes "
        "over on this machine; None takes `spool` in `cache_dir`. A disk that outlives the worker.",
    )
    spool_max_bytes: int = Field(
        256_000_000, ge=0, description="Size that the spool never passes; 0 keeps no replies."
    )
    spool_max_age_s: int = Field(
        2 * 86_400,
        ge=60,
        description="After so long a reply leaves the spool, whatever became of it.",
    )

    teachers: dict[str, TeacherSettings] = Field(
        default_factory=dict[str, TeacherSettings], description="By the name that requests use."
    )
    students: dict[str, StudentSettings] = Field(
        default_factory=dict[str, StudentSettings], description="By the name that requests use."
    )
    judges: dict[str, JudgeSettings] = Field(
        default_factory=dict[str, JudgeSettings],
        description="By the name that requests use; `default` exists where a teacher `default` does.",
    )
    budgets: dict[str, float] = Field(
        default_factory=lambda: {
            "fleet": 100.0,
            "tenant:default": 100.0,
            "campaign:default": 100.0,
        },
        description="Accounts made at a worker's start if they do not exist: scope -> US dollars. "
        "Changed at run time with `diagnosis budget set`.",
    )
    new_campaign_cap_usd: float | None = Field(
        None,
        ge=0,
        description="Cap of a campaign that has no account yet; None refuses its sessions.",
    )

    when_money_lacks: str = Field(
        "conclude",
        pattern="^(conclude|pause)$",
        description="For requests that do not say: a paid call that finds too little money leads to "
        "the closing call, or pauses the session until there is more.",
    )
    when_funds_lack: str = Field(
        "start",
        pattern="^(start|wait|refuse)$",
        description="For requests that do not say: where the accounts cannot carry what a session is "
        "expected to cost, it starts if they carry its closing call, waits, or is refused.",
    )
    batches: bool = Field(
        False,
        description="For requests that do not say: judgements and the extraction go through the "
        "provider's Message Batches, at half the price; each may take up to a day, within the "
        "session's `max_duration_s`.",
    )
    batch_poll_s: float = Field(
        30,
        ge=0.1,
        le=60,
        description="First pause before a batch is asked about; pauses grow to ten times as much.",
    )
    expected_session_usd: float | None = Field(
        None,
        gt=0,
        description="What nine of ten sessions cost, for `when_funds_lack`; None computes it from "
        "each request's limits and the price table.",
    )

    keep_ended_sessions_days: float = Field(
        7,
        ge=0,
        description="How long an ended session stays in Redis; then it leaves, once its artifacts "
        "are verified in S3. 36500 leaves it to `diagnosis prune`.",
    )

    recover_by_itself: bool = Field(
        True,
        description="Whether a worker that finds Redis emptied, or an older copy, rebuilds it from S3. "
        "If not, all wait until somebody says `diagnosis recover --all`.",
    )
    mark_every_s: float = Field(
        10,
        ge=0.1,
        le=3_600,
        description="How often Redis' progress is marked in S3: an older copy is known by the marks "
        "that it lacks. Some eight requests each time, from the whole fleet.",
    )
    ready_file: Path | None = Field(
        None,
        description="A file that a worker touches every second or so while it can work, and removes "
        "while it waits for Redis or S3: for readiness probes. None makes none.",
    )

    payload_inline_bytes: int = Field(
        1_024, ge=0, description="Texts above this stand in S3, once, and not in the journal."
    )
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: str = Field("json", pattern="^(json|console)$", description="`json` or `console`.")
    metrics_port: int | None = Field(
        None, ge=0, le=65_535, description="Port of Prometheus metrics; None serves none."
    )
    allow_unsafe_redis: bool = Field(
        False, description="Start although the server could lose a commit or a dollar. For tests."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources: arguments, environment, then the file of `DIAGNOSIS_CONFIG`."""
        del dotenv_settings, file_secret_settings
        path = os.environ.get("DIAGNOSIS_CONFIG")
        files = (TomlConfigSettingsSource(settings_cls, Path(path)),) if path else ()
        return (init_settings, env_settings, *files)

    @field_validator("redis_url", "broker_url", "result_url")
    @classmethod
    def _check_store(cls, url: SecretStr | None, info: pydantic.ValidationInfo) -> SecretStr | None:
        """Refuse what is no address; it is not shown, since it may hold a password."""
        schemes = {"redis", "rediss", "unix"} if info.field_name == "redis_url" else None
        scheme = "redis" if url is None else urlsplit(url.get_secret_value()).scheme
        if not scheme or (schemes is not None and scheme not in schemes):
            raise ValueError("this is no address: write redis://HOST:PORT/DATABASE")
        return url

    @field_validator("s3_endpoint")
    @classmethod
    def _check_endpoint(cls, url: str | None) -> str | None:
        return None if url is None else _address(url)

    @field_validator("teachers", "students")
    @classmethod
    def _check_models(cls, named: dict[str, _Model]) -> dict[str, _Model]:
        for name, server in named.items():
            _address(server.base_url, f"{name}.base_url ")
        return named

    @field_validator("budgets")
    @classmethod
    def _check_budgets(cls, budgets: dict[str, float]) -> dict[str, float]:
        for scope, usd in budgets.items():
            _dollars(usd, f"{account_scope(scope)} ")
        return budgets

    @field_validator("new_campaign_cap_usd", "expected_session_usd")
    @classmethod
    def _check_cap(cls, usd: float | None) -> float | None:
        return None if usd is None else _dollars(usd)

    def judge(self, name: str) -> JudgeSettings | None:
        """Return the judge of that name, None where there is none."""
        if name == "default" and name not in self.judges and "default" in self.teachers:
            return JudgeSettings.model_validate({})
        return self.judges.get(name)

    @property
    def spool_path(self) -> Path:
        """Where the spool is."""
        return self.spool_dir or self.cache_dir / "spool"

    @property
    def fleet(self) -> str:
        """What tells this fleet from others on the machine: its Redis, without its password."""
        url = urlsplit(self.redis_url.get_secret_value())
        where = f"{(url.hostname or '').lower()}:{url.port or ''}{url.path or '/0'}"
        return f"{where} {self.key_prefix}"

    @property
    def broker(self) -> str:
        """The broker's URL."""
        if self.broker_url is not None:
            return self.broker_url.get_secret_value()
        return _database(self.redis_url.get_secret_value(), 1)

    @property
    def results(self) -> str:
        """The result store's URL."""
        return self.result_url.get_secret_value() if self.result_url else self.broker


def load_settings(**overrides: Any) -> Settings:
    """Return the settings of this process.

    Raises:
        Misconfigured: One of them is wrong; the message names each with its cure.
    """
    path = os.environ.get("DIAGNOSIS_CONFIG")
    if path and not Path(path).is_file():
        raise Misconfigured(f"DIAGNOSIS_CONFIG names {path!r}, which is not a file: correct it")
    try:
        return Settings(**overrides)
    except pydantic.ValidationError as exc:
        lines = [
            f"DIAGNOSIS_{'__'.join(str(p) for p in e['loc']).upper()}: "
            + e["msg"].removeprefix("Value error, ")
            for e in exc.errors(include_url=False, include_input=False)
        ]
        raise Misconfigured("settings are wrong: " + "; ".join(lines)) from exc
    except ValueError as exc:
        raise Misconfigured(f"settings cannot be read: {exc}") from exc


def account_scope(scope: str) -> str:
    """Return the name of an account that lasts longer than a session.

    Raises:
        ValueError: It is none; the message says what is.
    """
    if _SCOPE.fullmatch(scope) is None:
        raise ValueError(f"{scope!r:.80}: accounts are fleet, tenant:NAME, campaign:NAME")
    return scope


def _address(url: str, what: str = "") -> str:
    """Return the address of an HTTP server, if it is one: better refused here than at each call."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{what}{url!r:.80} is no address: it begins with http:// or https://")
    return url


def _dollars(usd: float, what: str = "") -> float:
    """Return an amount of money, if it is one that the ledger can hold."""
    if not math.isfinite(usd) or not 0 <= usd <= MOST_USD:
        raise ValueError(f"{what}{usd!r} is no amount: from 0 to {MOST_USD} US dollars")
    return usd


def _database(url: str, number: int) -> str:
    """Return `url` with another database number."""
    head, separator, tail = url.rpartition("/")
    if separator and not head.endswith("/") and tail.split("?")[0].isdigit():
        query = tail.partition("?")[2]
        return f"{head}/{number}" + (f"?{query}" if query else "")
    return f"{url.rstrip('/')}/{number}"
