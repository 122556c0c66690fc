"""Shared by commands with a configuration: an option for each setting, and the logger."""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from exporter.config.loading import Configuration, load
from exporter.config.settings import PREFIX, Settings, default_text, is_duration
from exporter.logs import Log, NonBlockingStream, logger

Function = TypeVar("Function", bound=Callable[..., Any])

_PLACEHOLDERS: Final = {
    "listen": "ADDRESS",
    "state_file": "FILE",
    "rate_share": "SHARE",
    "job_series": "N",
    "web_config_file": "FILE",
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
    flag, default = f"--{key.replace('_', '-')}", default_text(field)
    if key == "accounts":  # tables have no option
        return lambda function: function
    if field.annotation is bool:
        text = f"{field.description} (default: {'yes' if field.default else 'no'})"
        return click.option(f"{flag}/--no-{flag.removeprefix('--')}", key, default=None, help=text)
    text = f"{field.description} (default: {default})" if default else str(field.description)
    return click.option(flag, key, metavar=_placeholder(key, field), help=text)


def _placeholder(key: str, field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "|".join(get_args(field.annotation))
    return "DURATION" if is_duration(field) else _PLACEHOLDERS.get(key, "SECONDS")


def load_configuration(flags: Mapping[str, object]) -> Configuration:
    """The configuration from *flags* (None where not given), the environment and the file.

    Raises:
        ConfigError: with a line for every problem.
    """
    return load({name: value for name, value in flags.items() if value is not None}, os.environ, home_folder())


def home_folder() -> Path:
    """The user's home directory; ``/`` if there is none."""
    try:
        return Path.home()
    except RuntimeError:  # a container's user may have no entry and no HOME
        return Path("/")


def configured_logger(configuration: Configuration, errors: NonBlockingStream) -> Log:
    """A logger with the configured format and level."""
    settings = configuration.settings
    return logger(settings.log_format, settings.log_level, errors)
