"""Every setting once: command-line option, environment variable, key of the TOML file, type, default and meaning."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from exporter.config.account_tables import AccountTable
from exporter.config.endpoints import parse_listen_address
from exporter.config.own_settings import UNITS, JobSeries, PollInterval, RateShare, seconds
from exporter.counting.values import Rules
from exporter.redaction import looks_like_token

PREFIX: Final = "SBG_EXPORTER_"
NEEDS_RESTART: Final = frozenset({"listen", "state_file"})
"""The settings that a reload does not change; nor ``web_config_file`` where it would turn protection off or TLS on."""


def _bounds(value: object) -> object:
    parts = re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else value
    try:
        numbers = tuple(map(seconds, parts))  # type: ignore[call-overload]  # a TypeError if it is not a list
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or numbers[0] <= 0 or any(one >= other for one, other in pairwise(numbers)):
        raise ValueError("expected ascending seconds above 0, such as 1, 5, 30")
    return numbers


def _names(value: object) -> object:
    if isinstance(value, str):
        return [part for part in re.split(r"[,\s]+", value.strip()) if part]
    if not isinstance(value, Sequence):
        raise ValueError('expected a list of names, such as ["cavatica", "cgc"], or "*"')  # noqa: TRY004  # pydantic takes no TypeError
    return value


def _listen_address(value: str) -> str:
    parse_listen_address(value)
    return value


def _usable_path(value: Path | None) -> Path | None:
    if value is not None and looks_like_token(value.name):
        raise ValueError("expected a path, but this looks like a token")
    if value is not None and "\0" in str(value):
        raise ValueError("expected a path, but this contains a null byte")
    return value


def is_duration(field: FieldInfo) -> bool:
    """Whether the setting is a duration."""
    return any(isinstance(each, BeforeValidator) and each.func is seconds for each in field.metadata)


def default_text(field: FieldInfo) -> str:
    """The setting's default as a person would write it; empty if there is none."""
    default = field.default
    if default is None:
        return ""
    if isinstance(default, tuple):
        return " ".join(f"{each:g}" for each in default)
    if is_duration(field):
        unit = next((unit for unit in "hm" if default % UNITS[unit] == 0 and default > UNITS[unit]), "s")
        return f"{default / UNITS[unit]:g}{unit}"
    return str(default)


Duration = Annotated[float, BeforeValidator(seconds), Field(gt=0)]
Delay = Annotated[float, BeforeValidator(seconds), Field(ge=0)]
Bounds = Annotated[tuple[float, ...], NoDecode, BeforeValidator(_bounds)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]


class Settings(BaseSettings):
    """Every setting: its key, type, default and meaning. Accounts are not resolved yet."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    listen: Annotated[str, AfterValidator(_listen_address)] = Field(
        ":10037", description="address of the metrics server: host:port, [::1]:port, or :port for all addresses"
    )
    state_file: Annotated[Path | None, AfterValidator(_usable_path)] = Field(
        None,
        description="state file (SQLite, on a local disk); by default state.db in $STATE_DIRECTORY,"
        " else sbg-exporter/state.db in $XDG_STATE_HOME",
    )
    poll_interval: PollInterval = Field(30.0, description="time between two polls of an account; at least 1s")
    full_listing_interval: Duration = Field(
        21600.0,
        description="maximum age of the full listing of an account too large to list at every poll;"
        " it is read in the background",
    )
    stale_after: Duration = Field(
        600.0, description="how long after its last successful poll an account's gauges are shown"
    )
    settle_after: Delay = Field(
        60.0,
        description="how long a finished job's missing files may still turn up before it is reported as incomplete",
    )
    lost_after: Delay = Field(
        300.0,
        description="how long the platform must report an unfinished job as not found before it is reported as lost",
    )
    request_timeout: Duration = Field(
        30.0, description="time limit of an API request, from name look-up to the last byte"
    )
    rate_share: RateShare = Field(0.25, description="share of the account's rate limit that the exporter may use")
    history: Literal["ignore", "count"] = Field(
        "ignore", description="jobs that finished before the account's ledger was created: ignore or count"
    )
    job_series: JobSeries = Field(
        50, description="maximum per-job series for unfinished and for failed jobs, per account"
    )
    failed_job_window: Duration = Field(86400.0, description="how long a failed job has series of its own")
    duration_buckets: Bounds = Field(
        Rules().duration_buckets,
        description="bounds of the job duration histogram, in seconds",
    )
    queue_buckets: Bounds = Field(
        Rules().queue_buckets,
        description="bounds of the queue duration histogram, in seconds",
    )
    show_username: bool = Field(
        True,  # noqa: FBT003  # pydantic's way of giving a default
        description="show user names in metrics, on the status page, in the log and in the output of commands",
    )
    log_format: Literal["auto", "json", "logfmt", "console"] = Field(
        "auto", description="json, logfmt or console; auto is console on a terminal, json elsewhere"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level logged: debug, info, warning, error"
    )
    web_config_file: Annotated[Path | None, AfterValidator(_usable_path)] = Field(
        None,
        description="TLS and basic authentication of the metrics server, in the format of Prometheus' exporter-toolkit",
    )
    enable_lifecycle: bool = Field(
        False,  # noqa: FBT003  # pydantic's way of giving a default
        description="allow `POST /-/reload`, which reads the configuration again",
    )
    profiles: Names = Field((), description='profiles of ~/.sevenbridges/credentials to monitor, or "*" for all')
    accounts: tuple[AccountTable, ...] = Field((), description="[[accounts]] tables; in the file only")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic-settings' signature
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic-settings' signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic-settings' signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """None: ``loading.load`` reads the sources, so that it can report where an invalid value came from."""
        return (init_settings,)
