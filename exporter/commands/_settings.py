"""Shared by commands with a configuration: an option for each setting, the logger, the stop event."""

import os
import signal
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

import click
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from exporter.config.loading import Configuration, load
from exporter.config.settings import PREFIX, Settings, seconds
from exporter.logs import Log, NonBlockingStream, logger
from exporter.redaction import Redactor

Function = TypeVar("Function", bound=Callable[..., Any])

_PLACEHOLDERS: Final = {
    "listen": "ADDRESS",
    "state_file": "FILE",
    "rate_share": "SHARE",
    "job_series": "N",
    "profiles": "NAMES",
}
"""What stands for a value in help, where its type does not say it."""


def settings_options(only: Collection[str] = tuple(Settings.model_fields)) -> Callable[[Function], Function]:
    """A decorator that adds ``--config`` and an option for each setting in *only*, from the model's declarations."""
    options = [click.option("--config", metavar="FILE", help=f"TOML configuration file (also {PREFIX}CONFIG)")]
    options += [_option(key, field) for key, field in Settings.model_fields.items() if key in only]

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _option(key: str, field: FieldInfo) -> Callable[[Function], Function]:
    flag, default = f"--{key.replace('_', '-')}", _shown(field)
    text = f"{field.description} (default: {default})" if default else field.description
    if key == "accounts":  # tables have no option
        return lambda function: function
    if field.annotation is bool:
        return click.option(f"{flag}/--no-{flag.removeprefix('--')}", key, default=None, help=text)
    return click.option(flag, key, metavar=_placeholder(key, field), help=text)


def _placeholder(key: str, field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "|".join(get_args(field.annotation))
    return "DURATION" if _is_duration(field) else _PLACEHOLDERS.get(key, "SECONDS")


def _is_duration(field: FieldInfo) -> bool:
    return any(isinstance(each, BeforeValidator) and each.func is seconds for each in field.metadata)


def _shown(field: FieldInfo) -> str:
    """A default as a person would write it."""
    default = field.default
    if isinstance(default, tuple):
        return " ".join(f"{each:g}" for each in default)
    if isinstance(default, bool):
        return "yes" if default else "no"
    if _is_duration(field):
        unit, size = next(((u, n) for u, n in (("h", 3600), ("m", 60)) if default % n == 0 and default > n), ("s", 1))
        return f"{default / size:g}{unit}"
    return "" if default is None else str(default)


def load_configuration(flags: Mapping[str, object]) -> Configuration:
    """The configuration from *flags* (None where not given), the environment and the file.

    Raises:
        ConfigError: with a line for every problem.
    """
    return load({name: value for name, value in flags.items() if value is not None}, os.environ, _home())


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a container's user may have no entry and no HOME
        return Path("/")


def configured_logger(configuration: Configuration, errors: NonBlockingStream, redactor: Redactor) -> Log:
    """A logger with the configured format and level."""
    settings = configuration.settings
    return logger(settings.log_format, settings.log_level, errors, redactor)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def request_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, request_stop)
    return stop
