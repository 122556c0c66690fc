"""The search for tokens in the output of the tests finds them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import leaks
from tests.harness import Account, Daemon, Installation
from tests.recording_server import RecordingServer

pytest_plugins = ("pytester",)

TOKEN = "5afe5afe5afe5afe5afe5afe5afe5afe"
OTHER = "a-token-in-another-format"

LEAKY = """
import pathlib, sys
token = pathlib.Path("a.token").read_text().strip()
if sys.argv[1] == "print":
    print("using", token)
elif sys.argv[1] == "log":
    print("using", token, file=sys.stderr)
else:
    pathlib.Path("state.db").write_text(token)
"""
"""A program that reads its token as the exporter does, and is careless with it."""

SERVING = """
import sys
print('{"event": "daemon.started", "listen": "ADDRESS"}', file=sys.stderr, flush=True)
"""
"""A program that says where the exporter's pages are."""


@pytest.mark.parametrize("token", [TOKEN, OTHER])
@pytest.mark.parametrize("way", ["print", "log"])
def test_token_in_the_output_of_a_process_is_found(tmp_path: Path, token: str, way: str) -> None:
    with Installation(tmp_path / "place", Account("a", "https://platform.invalid/v2", token)) as place:
        (place.folder / "leaky.py").write_text(LEAKY)
        daemon = Daemon(["leaky", way], os.environ, place.folder)

        with pytest.raises(leaks.Leak, match=r"after .*using"):
            daemon.end()


def test_token_in_a_file_is_found(tmp_path: Path) -> None:
    def write() -> None:
        with Installation(tmp_path / "place", Account("a", "https://platform.invalid/v2", OTHER)) as place:
            (place.folder / "leaky.py").write_text(LEAKY)
            assert Daemon(["leaky", "write"], os.environ, place.folder).end() == 0

    with pytest.raises(leaks.Leak, match=r"state\.db"):
        write()


def test_token_on_a_page_is_found(tmp_path: Path) -> None:
    page = f'sbg_account_info{{username="{OTHER}"}} 1'
    with (
        RecordingServer(200, lambda _headers: page) as server,
        Installation(tmp_path / "place", Account("a", "https://platform.invalid/v2", OTHER)) as place,
    ):
        (place.folder / "serving.py").write_text(SERVING.replace("ADDRESS", server.origin.removeprefix("http://")))
        daemon = Daemon(["serving"], os.environ, place.folder)

        with pytest.raises(leaks.Leak, match="the response to /metrics"):
            daemon.get("/metrics")
        daemon.kill()


def test_token_on_a_command_line_is_found_unless_the_test_gave_it() -> None:
    leaks.use(OTHER)
    command = [sys.executable, "-c", "print(flush=True); input()", OTHER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the new command line is in place
        leaks.check_command_line(process.pid, [OTHER])
        with pytest.raises(leaks.Leak, match="command line"):
            leaks.check_command_line(process.pid, [])
        process.communicate(b"\n")


def test_token_in_captured_output_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    sys.stdout.write(f"using {TOKEN}\n")

    with pytest.raises(leaks.Leak, match="the output"):
        capsys.readouterr()


def test_token_in_the_output_of_a_test_fails_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.makeconftest(Path(__file__).parents[1].joinpath("conftest.py").read_text())
    pytester.makepyfile("def test_prints() -> None:\n    print('using', '5afe' * 8)\n")

    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--show-capture=no")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*a token in the output of the test*"])


@pytest.mark.parametrize("text", ["fedcba98" * 8, "job 327292091756515328", "0123456789abcdef0123456789abcdeg"])
def test_other_hexadecimal_text_is_no_token(text: str) -> None:
    leaks.check_text(text, "the output")
