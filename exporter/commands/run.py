"""``run``: the exporter, until it is stopped."""

import click

from exporter.commands._click import Command
from exporter.commands._settings import configured_logger, load_configuration, settings_options, stop_on_signals
from exporter.daemon import run
from exporter.logs import NonBlockingStream
from exporter.redaction import Redactor


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
    configuration, redactor = load_configuration(flags), Redactor()
    return run.run(configuration, stop_on_signals(), configured_logger(configuration, errors, redactor), redactor)
