"""Command classes that never repeat what was typed: a token may be typed where an option or a command belongs.

click quotes the wrong word in its messages, so unknown options, unknown commands and unexpected arguments are found and
put into words here.
"""

from collections.abc import Iterable
from importlib import import_module
from typing import ClassVar

import click

from exporter.errors import ConfigError, suggestion


class _Parsing(click.Command):
    """Reports every unknown option, not just the first."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        problems: list[str] = []
        while True:
            try:
                rest = super().parse_args(ctx, list(args))
            except click.NoSuchOption as error:
                problems.append(_unknown_option(ctx, error.option_name))
                others = [each for each in args if each.partition("=")[0] != error.option_name]
                if others == args:  # one of several letters after a single dash
                    break
                args = others
            except click.UsageError as error:
                error.ctx = error.ctx or ctx  # click does not always know it
                if not problems:
                    raise
                break  # a consequence of the unknown options: their values look like arguments
            else:
                if not problems:
                    return rest
                break
        raise ConfigError(*problems)


class Command(_Parsing):
    """A command: takes its own arguments and no other."""

    allow_extra_args = True  # they are refused below, without being repeated
    instead_of_argument: ClassVar[str] = ""
    """What may have been meant by an argument; empty if that is not known."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse unexpected arguments."""
        rest = super().parse_args(ctx, args)
        if rest:
            raise ConfigError(f"unexpected argument; {self.instead_of_argument or _see_help(ctx)}")
        return rest


class Group(_Parsing, click.Group):
    """A command made of commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """The commands in the order of their declaration."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown command."""
        known = self.list_commands(ctx)
        if args[0] not in known:
            otherwise = f"expected {_one_of(known)}; {_see_help(ctx)}"
            raise ConfigError(f"unknown command; {suggestion(args[0], known, otherwise)}")
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """A group that imports a command's module, of the same name, when the command is used or listed.

    Without a command it runs the first one.
    """

    def __init__(self, *args: object, package: str, names: tuple[str, ...], **attributes: object) -> None:
        super().__init__(*args, **attributes)  # type: ignore[arg-type]  # passed on as they came
        self._package = package
        self._names = names

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take options without a command for those of the first command."""
        own = {each for option in self.get_params(ctx) for each in option.opts}
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = [self._names[0], *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """The commands in the order of their declaration."""
        return list(self._names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        """The command, imported now."""
        if cmd_name not in self._names:
            return None
        command = import_module(f"{self._package}.{cmd_name}").command
        assert isinstance(command, click.Command)  # noqa: S101  # for the type checker
        return command


def usage_error(error: click.UsageError) -> str:
    """What is wrong and what to do, in one line without the typed value."""
    context = error.ctx
    assert context is not None  # noqa: S101  # set while parsing
    if isinstance(error, click.BadOptionUsage):
        flags = {each for option in context.command.params if getattr(option, "is_flag", False) for each in option.opts}
        expected = "takes no value" if error.option_name in flags else "expected a value"
        return f"{error.option_name}: {expected}; {_see_help(context)}"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"missing {error.param.metavar}; {_see_help(context)}"
    if isinstance(error, click.BadParameter) and error.param is not None and isinstance(error.param.type, click.Choice):
        return f"{error.param.opts[0]}: unknown value; expected one of: {_one_of(error.param.type.choices)}"
    if isinstance(context.command, click.Group):
        return f"missing command; expected {_one_of(context.command.list_commands(context))}; {_see_help(context)}"
    return f"invalid arguments; {_see_help(context)}"


def _unknown_option(ctx: click.Context, flag: str) -> str:
    known = [each for option in ctx.command.get_params(ctx) for each in option.opts if each.startswith("--")]
    return f"{flag}: unknown option; {suggestion(flag, known, _see_help(ctx))}"


def _see_help(ctx: click.Context) -> str:
    return f"see `{ctx.command_path} --help`"


def _one_of(names: Iterable[str]) -> str:
    return ", ".join(names)
