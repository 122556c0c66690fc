"""``simulate``: a simulated platform, and the options that it shares with the demo."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final, TypeVar

import click

from exporter.commands._click import Command
from exporter.errors import ConfigError
from exporter.signals import stop_event
from exporter.simulator.server import serve
from exporter.simulator.settings import SimulatorSettings

Function = TypeVar("Function", bound=Callable[..., Any])

_PLACEHOLDERS: Final = {
    "listen": "ADDRESS",
    "order": "ORDER",
    "token": "TOKEN",
    "speed": "FACTOR",
    "chaos": "LEVEL",
}
_NUMBERS: Final[Mapping[str, type]] = {"seed": int, "jobs": int, "chaos": int, "speed": float, "rate": float}


def simulator_options(*names: str, **defaults: str) -> Callable[[Function], Function]:
    """A decorator that adds an option for each of the simulator's settings in *names*."""
    known = {field.name: field for field in fields(SimulatorSettings)}

    def decorate(function: Function) -> Function:
        for name in reversed(names):
            field = known[name]
            text = str(field.metadata["help"]).rstrip(".")
            if field.repr:
                text += f" (default: {defaults.get(name, field.default)})"
            metavar = _PLACEHOLDERS.get(name, "N")
            function = click.option(f"--{name}", metavar=metavar, help=text[:1].lower() + text[1:])(function)
        return function

    return decorate


def simulator_settings(flags: Mapping[str, object]) -> SimulatorSettings:
    """The simulator's settings from *flags*, None where not given.

    Raises:
        ConfigError: with a line for every problem.
    """
    values: dict[str, Any] = {}
    problems = []
    for name, text in flags.items():
        kind = _NUMBERS.get(name, str)
        try:
            if text is not None:
                values[name] = kind(str(text))
        except ValueError:
            problems.append(f"--{name}: expected a {'whole ' if kind is int else ''}number, such as 2")
    try:
        settings = SimulatorSettings(**values)
    except ValueError as error:
        problems += [f"--{each}" for each in error.args]
    if problems:
        raise ConfigError(*problems)
    return settings


@click.command(
    cls=Command,
    epilog="""\b
Example, in two terminals:
  sbg-exporter simulate --listen 127.0.0.1:8089 --seed 7
  SB_API_ENDPOINT=http://127.0.0.1:8089/v2 SB_AUTH_TOKEN=0123456789abcdef0123456789abcdef sbg-exporter""",
)
@simulator_options("listen", "seed", "speed", "jobs", "rate", "order", "token", "chaos")
def command(**flags: object) -> int:
    """Serve a simulated platform over HTTP.

    It has one user, with the token of --token. For several accounts, serve several platforms with different --listen
    and --token: the exporter polls each as an account of its own.
    """
    return serve(simulator_settings(flags), stop_event())
