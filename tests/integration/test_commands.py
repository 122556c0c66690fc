"""``check`` and ``once`` as processes with the simulated platform; node_exporter reads the textfile of ``once``."""

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.commands.once import write_textfile
from exporter.errors import OutputError
from exporter.simulator.faults import Fault, FaultKind
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import QUIET, RunningSimulator, running
from tests.harness import OPENMETRICS, Account, Installation
from tests.snapshots import exposition
from tests.tools import tool
from tests.waiting import PATIENCE, eventually

REPOSITORY = Path(__file__).parents[2]
DONE = JobScript(total=3, queued=0, resolving=0, running=0)


def test_check_tells_of_each_account_what_watching_it_takes(tmp_path: Path) -> None:
    token = "token-of-another-00000000000000"
    own = {"poll_interval": "1m", "rate_share": 0.1, "job_series": 1}
    with (
        running(replace(QUIET, users={token: "another"})) as simulator,
        Installation(
            tmp_path / "etc",
            Account.at(simulator),
            Account("own", simulator.url, token, own),
            poll_interval=30,
        ) as site,
    ):
        for _ in range(120):
            simulator.platform.submit(DONE)
        await_finished(simulator, 120)
        simulator.platform.submit(JobScript(total=3, hangs_after=1))
        for _ in range(3):
            simulator.platform.submit(JobScript(total=3, hangs_after=1), "another")

        check = site.start("check", "--verbose", "--config", str(site.config))

        assert check.end() == 0
        assert check.lines == []
        assert check.stdout.splitlines()[-1] == "OK: 2 accounts can be polled."
        assert check.stdout.startswith("sim\n")
        told, told_of_own = (
            dict(re.findall(r"^  (\S+(?: limit)?)\s{2,}(.*)$", part, re.MULTILINE))
            for part in check.stdout.split("\nown\n")
        )
        assert told["endpoint"] == simulator.url
        assert told["user"] == "demo"
        assert told["jobs"] == "121 listed"
        assert told["rate limit"] == "997 of 1000 requests left in this window"
        assert told["requests"] == "20 per 5 minutes expected, 250 allowed"
        assert told["interval"] == "30s between two polls"
        assert told["configured"] == f"{site.config}: accounts.#1 (sim)"
        assert told["token"] == f"{site.folder}/sim.token"
        assert re.search(
            r"^Total: 25 requests per 5 minutes; \d+ to \d+ series; about \d+ MiB of memory$",
            check.stdout,
            re.MULTILINE,
        )
        assert told["settings"] == "poll_interval 30s, rate_share 0.25, job_series 50"
        assert told["spent"].startswith("3 requests by this check, which polls once, ")
        assert told_of_own["requests"] == "5 per 5 minutes expected, 100 allowed"
        assert told_of_own["settings"] == "poll_interval 60s, rate_share 0.1, job_series 1"
        assert accounts_in(site.state) == 0
        with site.running() as daemon:
            shown = daemon.get("/metrics", accept=OPENMETRICS).text
        for account, told_of_it in (("sim", told), ("own", told_of_own)):
            series = [line for line in shown.splitlines() if re.match(f'sbg_.*account="{account}"', line)]
            assert told_of_it["series"].startswith(f"{len(series)} now, at most ")
        assert 'job_series_hidden{account="own",kind="unfinished"} 2' in shown


def await_finished(simulator: RunningSimulator, jobs: int) -> None:
    """Wait until so many copy jobs have finished: those submitted in one go begin a millisecond apart."""
    user, *_ = simulator.platform.users()
    eventually(lambda: sum(simulator.platform.truth(user, 0).finished["copy"].values()) == jobs)


def accounts_in(state: Path) -> int:
    with closing(sqlite3.connect(state)) as db:
        return int(db.execute("SELECT count(*) FROM account").fetchone()[0])


@pytest.mark.fault(
    "`check` in a loop",
    action="counts its requests in the allowance",
    shown="exit code 1 and when to check again",
    recovery="the next window of the rate limit",
)
def test_check_in_a_loop_keeps_to_the_allowance(tmp_path: Path) -> None:
    with (
        running(replace(QUIET, rate_limit=40)) as simulator,
        Installation(tmp_path / "etc", Account.at(simulator), rate_share=0.25) as site,
    ):
        checks, codes = [], []
        for _ in range(8):
            checks.append(site.start("check", "--verbose", "--config", str(site.config)))
            codes.append(checks[-1].end())
        requests = len(simulator.platform.latest_requests())

    assert codes[:3] == [0, 0, 0]
    assert codes[-1] == 1
    assert requests <= 10
    told = checks[-1].stdout
    assert re.search(
        r"10 of the 10 requests that the exporter may send .* are used; check again in \d+ s$", told, re.MULTILINE
    )
    assert "spent       0 requests" in told


@pytest.mark.fault(
    "`check` while the daemon holds the state file",
    action="polls in addition",
    shown="how many requests it took, and that they are not counted",
    recovery="none needed",
)
def test_check_next_to_a_daemon_says_what_it_spent(tmp_path: Path) -> None:
    with running(QUIET) as simulator, Installation(tmp_path / "etc", Account.at(simulator)) as site:
        with site.running() as daemon:
            check = site.start("check", "--verbose", "--config", str(site.config))
            assert check.end() == 0
            pid = daemon.pid
            brief = site.start("check", "--config", str(site.config))
            assert brief.end() == 0
        alone = site.start("check", "--verbose", "--state-file", "nowhere/state.db", "--config", str(site.config))
        assert alone.end() == 0

    assert "  spent       2 requests by this check" in check.stdout
    assert f"Note: process {pid} on " in check.stdout.splitlines()[-1]
    assert check.stdout.endswith(" holds the state file, so these requests are not counted in its allowance.\n")
    assert brief.stdout.endswith("OK: 1 account can be polled.\n"), "it is of no consequence"
    assert alone.stdout.endswith("OK: 1 account can be polled.\n")


def test_check_tells_which_account_cannot_be_watched_and_why(tmp_path: Path) -> None:
    with running(QUIET) as simulator:
        accounts = (
            Account(name="refused", endpoint=simulator.url, token="f" * 32),
            Account.at(simulator, "good"),
            Account.at(simulator, "twin"),
        )
        with Installation(tmp_path / "etc", *accounts) as site:
            brief = site.start("check", "--config", str(site.config))
            assert brief.end() == 1
            good, refused, twin, verdict = brief.stdout.splitlines()
            host = simulator.url.partition("://")[2].partition("/")[0]
            assert re.fullmatch(
                rf"good     ok      demo at {host}; 0 jobs; \d+ of 250 requests per 5 minutes; \d+ to \d+ series", good
            )
            assert twin.startswith("twin     failed  the same user on the same platform as good; not polled; remove")
            assert refused.startswith("refused  failed  the platform refused the token: 401")
            assert verdict == "Failed: 2 of 3 accounts cannot be polled, for the reasons above."
            as_json = site.start("check", "--json", "--config", str(site.config))
            assert as_json.end() == 1
            found = {each["account"]: each for each in json.loads(as_json.stdout)}
            assert [found["refused"][key] for key in ("poll_interval", "rate_share", "job_series")] == [1, 0.25, 50]
            assert {name: each["ok"] for name, each in found.items()} == {"good": True, "twin": False, "refused": False}
            assert (found["good"]["jobs"], found["refused"]["series"]) == (0, None)
            assert f"to the token file {site.folder}/refused.token" in found["refused"]["next_step"]
            assert (found["good"]["next_step"], found["good"]["token_from"]) == (None, f"{site.folder}/good.token")
            assert found["good"]["effective_poll_interval"] > found["good"]["poll_interval"], (
                "rate_share permits no more"
            )

            check = site.start("check", "--verbose", "--config", str(site.config))

            assert check.end() == 1
            assert re.findall(r"^(\w+)$", check.stdout, re.MULTILINE) == ["good", "refused", "twin"]
            assert re.findall(r"error +(.*)", check.stdout) == [
                "the platform refused the token: 401 'Unauthorized.' (code 90001)",
                "the same user on the same platform as good; not polled; remove one of the two accounts",
            ]


def test_check_of_one_account_asks_no_other(tmp_path: Path) -> None:
    with running(QUIET) as simulator, running(QUIET) as other:
        accounts = Account.at(simulator, "first"), Account.at(other, "second")
        with Installation(tmp_path / "etc", *accounts) as place:
            one = place.start("check", "--config", str(place.config), "--account", "first")
            assert one.end() == 0
            assert "OK: 1 account can be polled." in one.stdout
            assert other.platform.latest_requests() == []
            wrong = place.start("check", "--config", str(place.config), "--account", "third")
            assert wrong.end() == 2
            assert "--account: no account 'third' is configured; expected one of: first, second" in wrong.output()


def test_check_knows_whose_token_an_account_had(tmp_path: Path) -> None:
    other = "token-of-another-00000000000000"
    with running(replace(QUIET, users={other: "another"})) as simulator:
        accounts = Account.at(simulator, "one"), Account("two", simulator.url, other)
        with Installation(tmp_path / "etc", *accounts) as site:
            once = site.start("once", "--config", str(site.config))
            assert once.end() == 0
            site.write_token("two", accounts[0].token)

            check = site.start("check", "--config", str(site.config))

            assert check.end() == 1
            _, two, _ = check.stdout.splitlines()
            assert two.startswith("two  failed  the token belongs to demo, but the ledger of account two to another;")
            assert "remove one of the two" not in check.stdout


def test_check_of_one_of_two_accounts_with_each_other_s_tokens_does_not_advise_to_rename_it(tmp_path: Path) -> None:
    other = "token-of-another-00000000000000"
    with running(replace(QUIET, users={other: "another"})) as simulator:
        accounts = Account.at(simulator, "one"), Account("two", simulator.url, other)
        with Installation(tmp_path / "etc", *accounts) as site:
            once = site.start("once", "--config", str(site.config))
            assert once.end() == 0
            site.write_token("one", other)
            site.write_token("two", accounts[0].token)

            check = site.start("check", "--account", "two", "--config", str(site.config))

            assert check.end() == 1
            two, _ = check.stdout.splitlines()
            assert "; restore the token of another; or, to exchange the names of two and one, reload with" in two


def test_check_offline_asks_nobody(tmp_path: Path) -> None:
    with Installation(tmp_path / "etc", Account("far", "https://nobody.invalid/v2")) as site:
        (site.folder / "far.token").chmod(0o644)

        check = site.start("check", "--offline", "--config", str(site.config))

        assert check.end() == 0
        assert check.stdout == (
            f"warning: {site.folder}/far.token: others can read this token file (mode 0644); chmod o= it\n"
            "Configuration OK: 1 account (API not contacted).\n"
        )


def test_check_offline_questions_a_path_that_a_base_url_rarely_has(tmp_path: Path) -> None:
    with Installation(tmp_path / "etc", Account("far", "https://nobody.invalid/v2/v2")) as site:
        check = site.start("check", "--offline", "--config", str(site.config))

        assert check.end() == 0
        assert "api_endpoint goes on after /v2; should it be https://nobody.invalid/v2?\n" in check.stdout


def test_check_offline_recognises_a_web_address(tmp_path: Path) -> None:
    with Installation(tmp_path / "etc", Account("far", "https://cavatica.sbgenomics.com")) as site:
        check = site.start("check", "--offline", "--config", str(site.config))

        assert check.end() == 2
        [line] = check.lines
        assert line.endswith("should it be https://cavatica-api.sbgenomics.com/v2?\n")


def test_once_counts_into_the_state_file_and_prints_the_page(tmp_path: Path) -> None:
    with running(QUIET) as simulator, Installation(tmp_path / "etc", Account.at(simulator), history="count") as site:
        for number in range(250):
            simulator.platform.submit(msgspec.structs.replace(DONE, total=2, failed=number % 2))
        await_finished(simulator, 250)
        pages = []
        for _ in range(2):
            once = site.start("once", "--config", str(site.config))
            assert once.end() == 0
            pages.append(once.stdout)

        counted = [
            {
                sample.name: sample.value
                for family in text_string_to_metric_families(page)
                for sample in family.samples
                if sample.labels.get("operation") == "copy" and sample.name.startswith("sbg_files")
            }
            for page in pages
        ]

    assert counted[0] == {"sbg_files_total": 500, "sbg_files_completed_total": 375, "sbg_files_failed_total": 125}
    assert counted[1] == counted[0]
    assert "process_cpu_seconds_total" in pages[0]


def test_cron_mails_each_failed_job_once_and_an_account_that_cannot_be_polled(tmp_path: Path) -> None:
    """The lines of OPERATIONS.md; what they would print is mailed."""
    operations = (REPOSITORY / "deploy" / "OPERATIONS.md").read_text(encoding="utf-8")
    [lines] = re.findall(r"<!-- mail -->\n\n```crontab\nMAILTO=\S+\n(.+?)```", operations, re.DOTALL)
    program = r"(?:\S+ ){5}(?:found=\$\()?\$HOME/\.local/bin/sbg-exporter"
    poll = re.search(rf"^{program} (once .+) 2>&1 >/dev/null \| (grep .+)$", lines, re.MULTILINE)
    check = re.search(rf'^{program} (check) 2>&1\) \|\| echo "\$found"$', lines, re.MULTILINE)
    assert poll
    assert check

    def mailed_by_poll() -> list[str]:
        once = site.start(*poll[1].split(), SBG_EXPORTER_CONFIG=str(site.config))
        once.end()
        found = subprocess.run(
            ["sh", "-c", poll[2]], input="".join(once.lines), capture_output=True, text=True, check=False
        )
        return found.stdout.splitlines()

    with running(QUIET) as simulator, Installation(tmp_path / "etc", Account.at(simulator), log_format="auto") as site:
        platform = simulator.platform
        platform.submit(msgspec.structs.replace(DONE, failed=1))
        await_finished(simulator, 1)
        platform.advance(5)  # counting begins clearly after its end
        platform.submit(JobScript(total=9, failed=4, queued=0, resolving=0, running=0.002, hangs_after=0.001))
        assert mailed_by_poll() == [], "one job had ended before, the other has not ended"

        platform.submit(msgspec.structs.replace(DONE, failed=2))
        platform.submit(DONE)
        await_finished(simulator, 3)
        [mail] = mailed_by_poll()
        assert re.search(r"\[warning +\] job\.finished .*job_id=\d+ .*failed=2 ", mail)

        platform.queue(Fault(kind=FaultKind.UNAUTHORIZED), times=9)
        assert mailed_by_poll() == [], "neither the same job nor the token"
        daily = site.start(check[1], SBG_EXPORTER_CONFIG=str(site.config))
        assert daily.end() == 1
        assert "sim  failed  the platform refused the token" in daily.stdout

        site.configure(Account.at(simulator), stale_afer=1)
        [mail] = mailed_by_poll()
        assert "stale_afer: unknown key" in mail


def test_once_that_cannot_list_shows_what_is_known_and_fails(tmp_path: Path) -> None:
    with running(QUIET) as simulator, Installation(tmp_path / "etc", Account.at(simulator)) as site:
        simulator.platform.submit(JobScript(total=9, failed=4, hangs_after=5))
        assert site.start("once", "--config", str(site.config)).end() == 0
        simulator.platform.queue(Fault(kind=FaultKind.UNAUTHORIZED), times=9)

        once = site.start("once", "--config", str(site.config))

        assert once.end() == 1
        assert 'sbg_up{account="sim"} 0' in once.stdout
        assert 'sbg_jobs_submitted_total{account="sim",operation="copy"} 1' in once.stdout


def test_once_counts_next_time_what_it_could_not_commit(tmp_path: Path) -> None:
    with running(QUIET) as simulator, Installation(tmp_path / "etc", Account.at(simulator)) as site:
        assert site.start("once", "--config", str(site.config)).end() == 0
        simulator.platform.submit(DONE)
        other = sqlite3.connect(site.state, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        blocked = site.start("once", "--config", str(site.config))

        assert blocked.end() == 1
        assert 'sbg_files_total{account="sim",operation="copy"} 0' in blocked.stdout
        other.execute("ROLLBACK")
        other.close()
        once = site.start("once", "--config", str(site.config))
        assert once.end() == 0
        assert 'sbg_files_total{account="sim",operation="copy"} 3' in once.stdout


@pytest.mark.tools("prometheus-node-exporter")
def test_node_exporter_takes_the_textfile(tmp_path: Path) -> None:
    folder = tmp_path / "textfiles"
    folder.mkdir()
    with running(QUIET) as simulator, Installation(tmp_path / "etc", Account.at(simulator)) as site:
        simulator.platform.submit(JobScript(total=9, failed=4, hangs_after=5))
        written = folder / "sbg.prom"
        written.write_text("something older\n")

        once = site.start("once", "--config", str(site.config), "--textfile", str(written))

        assert once.end() == 0
        assert once.stdout == ""
    text = written.read_text()
    assert [path.name for path in folder.iterdir()] == ["sbg.prom"]
    assert written.stat().st_mode & 0o777 == 0o644
    assert not re.search(r"^(process_|python_|\S+_created)", text, re.MULTILINE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    node_exporter = subprocess.Popen(
        [
            tool("prometheus-node-exporter"),
            f"--web.listen-address={address}",
            "--collector.disable-defaults",
            "--collector.textfile",
            f"--collector.textfile.directory={folder}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        page = eventually(lambda: _page(f"http://{address}/metrics"))
    finally:
        node_exporter.terminate()
        node_exporter.wait()
    assert "node_textfile_scrape_error 0" in page
    ours, theirs = _series(text), _series(page)
    assert {key: theirs.get(key) for key in ours} == ours


def test_a_textfile_that_cannot_be_written_is_one_line_before_anything_is_asked(tmp_path: Path) -> None:
    with running(QUIET) as simulator, Installation(tmp_path / "etc", Account.at(simulator)) as site:
        once = site.start("once", "--config", str(site.config), "--textfile", str(tmp_path / "no" / "sbg.prom"))

        assert once.end() == 1
        missing = tmp_path / "no" / "sbg.prom"
        assert once.lines == [
            (
                f"sbg-exporter: --textfile: {missing} cannot be written: No such file or directory;"
                " create its folder, or choose another path\n"
            )
        ]
        assert not simulator.platform.latest_requests()
        assert not site.state.exists()

        once = site.start("once", "--config", str(site.config), "--textfile", str(tmp_path))

        assert once.end() == 1
        assert once.lines == [
            (
                f"sbg-exporter: --textfile: {tmp_path} cannot be written: Is a directory;"
                " pass the path of a file, not of a folder\n"
            )
        ]


def test_a_textfile_that_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "sbg.prom").mkdir()

    with pytest.raises(OutputError, match=r"sbg\.prom cannot be written: Is a directory"):
        write_textfile(exposition(), tmp_path / "sbg.prom", threading.Event())

    assert [each.name for each in tmp_path.iterdir()] == ["sbg.prom"]


def test_daemon_with_an_unread_log_pipe_runs_and_stops(tmp_path: Path) -> None:
    busy = replace(QUIET, rate_limit=100_000)
    with running(busy) as simulator, Installation(tmp_path / "etc", Account.at(simulator), log_level="debug") as site:
        for _ in range(2000):
            simulator.platform.submit(JobScript(total=2, failed=1, queued=0, resolving=0, running=0))
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        daemon = subprocess.Popen(
            [sys.executable, "-m", "exporter", "run", "--config", str(site.config), "--listen", address],
            env={**os.environ, "SBG_EXPORTER_HISTORY": "count"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            eventually(
                lambda: (
                    'sbg_files_failed_total{account="sim",operation="copy"} 2000'
                    in (_page(f"http://{address}/metrics") or "")
                ),
                within=4 * PATIENCE,  # a list of 20 pages is read between polls
            )
            daemon.terminate()
            assert daemon.wait(5) == 0
        finally:
            daemon.kill()
            daemon.communicate()


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An account that has been polled: what stands for its configuration, its job and its platform in arguments."""
    folder = tmp_path_factory.mktemp("ending")
    with running(QUIET) as simulator, Installation(folder / "etc", Account.at(simulator), history="count") as site:
        job = simulator.platform.submit(msgspec.structs.replace(DONE, failed=1))
        await_finished(simulator, 1)
        assert site.start("once", "--config", str(site.config)).end() == 0
        yield {"config": str(site.config), "job": job, "url": simulator.url, "new": str(folder / "new.toml")}


@pytest.mark.parametrize(
    ("arguments", "stop_at"),
    [
        ("version", ""),
        ("check --config {config}", ""),
        ("once --config {config}", ""),
        ("jobs --config {config}", ""),
        ("job {job} --config {config}", ""),
        ("state check --config {config}", ""),
        ("init --platform {url} --config {new}", ""),
        ("run --config {config}", "daemon.started"),
        ("simulate --listen 127.0.0.1:0", "control requests"),
        ("demo --listen 127.0.0.1:0 --jobs 1", "Ctrl-C"),
    ],
)
def test_python_ends_without_a_warning_after_each_command(ending: dict[str, str], arguments: str, stop_at: str) -> None:
    """A process of its own each: :mod:`tests.warm` leaves out the last of what Python does."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "exporter", *arguments.format(**ending).split()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        hangs = threading.Timer(PATIENCE, process.kill)
        hangs.start()
        process.stdin.write(f"{QUIET.token}\n")
        process.stdin.close()
        output = ""
        for line in process.stdout:
            output += line
            if stop_at and stop_at in line:
                process.terminate()
                stop_at = ""
    hangs.cancel()

    assert process.returncode == 0, output
    assert output
    assert not re.search("Exception ignored|Fatal Python error|ResourceWarning|Traceback", output), output


def _page(url: str) -> str | None:
    try:
        return httpx.get(url, trust_env=False).text
    except httpx.TransportError:
        return None


def _series(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return all samples, with bounds as numbers, because Go formats them differently."""
    return {
        (sample.name, frozenset({**sample.labels, "le": str(float(sample.labels.get("le", 0)))}.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
