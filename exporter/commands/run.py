"""``run``: the exporter, until it is stopped."""

import click

from exporter.commands._click import Command
from exporter.commands._settings import load_configuration, settings_options
from exporter.daemon import run
from exporter.logs import LogStyle, NonBlockingStream, logger_in
from exporter.signals import stop_event


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
    profile), division, ca_file, proxy and allow_plain_http, and poll_interval, rate_share and job_series for this
    account only. The folder accounts.d next to the file may hold further accounts, one file with these keys for each.
    Without any, SB_API_ENDPOINT and SB_AUTH_TOKEN_FILE (or SB_AUTH_TOKEN) configure one account. SIGHUP reads the files
    again.
    """
    configuration = load_configuration(flags)
    settings = configuration.settings
    style = LogStyle(settings.log_format, settings.log_level, terminal=errors.isatty())
    reload = run.Reload(lambda: load_configuration(flags), style.use)
    return run.run(configuration, stop_event(), logger_in(style, errors), reload=reload)
