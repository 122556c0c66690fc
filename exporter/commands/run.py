"""``run``: the exporter, until it is stopped."""

from typing import Final

import click

from exporter.commands._click import Command
from exporter.commands._settings import configured_logger, load_configuration, settings_options
from exporter.daemon import run
from exporter.logs import NonBlockingStream
from exporter.signals import on_hangup, stop_event

_NO_RELOAD: Final = "reload on SIGHUP is not available in this version; restart the daemon to read its configuration"


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  sbg-exporter run --config /etc/sbg-exporter/config.toml
  SB_API_ENDPOINT=https://cavatica-api.sbgenomics.com/v2 SB_AUTH_TOKEN_FILE=token sbg-exporter""",
)
@settings_options()
@click.pass_obj
def command(errors: NonBlockingStream, /, **flags: object) -> int:
    """Run the exporter: poll the accounts and serve /metrics.

    Every option is also a variable (--poll-interval is SBG_EXPORTER_POLL_INTERVAL) and a key of the TOML file
    (poll_interval). Options override variables, and variables override the file. Durations are seconds, or 30s, 5m, 1h.

    Accounts are [[accounts]] tables in the file with the keys name, api_endpoint, auth_token_file (or auth_token, or
    profile), division, ca_file, proxy and allow_plain_http. Without any, SB_API_ENDPOINT and SB_AUTH_TOKEN_FILE (or
    SB_AUTH_TOKEN) configure one account.
    """
    configuration = load_configuration(flags)
    log = configured_logger(configuration, errors)
    on_hangup(lambda: log.warning("reload.ignored", reason=_NO_RELOAD))
    return run.run(configuration, stop_event(), log)
