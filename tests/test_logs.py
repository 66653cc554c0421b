"""Logging: the files and formats of the original, no line twice, no secret anywhere."""

from __future__ import annotations

import base64
import logging
import logging.handlers
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from chandlery.errors import UsageError
from chandlery.logs import RedactSecrets, configure_logger, keep_secret, redact

CANARY = "c4n4ry+Key/with=signs&more"


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for logs, and the loggers as they were afterwards."""
    folder = tmp_path / "logs"
    monkeypatch.setenv("CHANDLERY_LOGS", str(folder))
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    yield folder
    for logger in (root, *(logging.getLogger(name) for name in ("job", "job.part", "job.other"))):
        for handler in [h for h in logger.handlers if type(h).__module__ == "chandlery.logs"]:
            logger.removeHandler(handler)
            handler.close()
    assert (list(root.handlers), root.level) == (before[0], root.level)
    root.setLevel(before[1])


def today() -> str:
    """The present day in UTC, as file names have it."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def test_a_line_goes_to_console_and_file_and_an_error_to_the_error_file_too(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Info is in the day's file and on stderr, an error in the error file as well, each in the original's format."""
    logger = configure_logger("job")
    logger.info("fetched %d candles", 7)
    logger.error("no answer")
    logger.debug("noise")

    lines = (logs / f"{today()}.log").read_text().splitlines()
    assert [line.split(" - ", 1)[1] for line in lines] == [
        "job - INFO - fetched 7 candles",
        "job - ERROR - no answer",
    ]
    (error,) = (logs / f"error_{today()}.log").read_text().splitlines()
    assert error.endswith(" - job - ERROR - no answer")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split(" - ", 1)[1] for line in captured.err.splitlines()] == [
        "INFO - fetched 7 candles",
        "ERROR - no answer",
    ]


def test_configuring_again_or_for_a_relative_writes_no_line_twice(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """However often logger, child and root are configured, a line stands once in the file and once on the console."""
    for name in ("job", "job", "job.part", None, "job"):
        configure_logger(name)
    logging.getLogger("job.part").warning("once")
    logging.getLogger("elsewhere").warning("also once")

    text = (logs / f"{today()}.log").read_text()
    assert (text.count("WARNING - once"), text.count("also once")) == (1, 1)
    err = capsys.readouterr().err
    assert (err.count("WARNING - once"), err.count("also once")) == (1, 1)
    assert len(logging.getLogger("job").handlers) == 3


def test_handlers_of_others_stay(logs: Path) -> None:
    """A handler that the program added itself is still there after configure_logger."""
    own = logging.NullHandler()
    logger = logging.getLogger("job.other")
    logger.addHandler(own)
    try:
        assert own in configure_logger("job.other").handlers
    finally:
        logger.removeHandler(own)


def test_a_full_file_is_rotated_and_ten_old_ones_are_kept(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 10 MB the file moves to .1 and so on up to .10; every line of the kept ones is whole."""
    logger = configure_logger("job")
    daily = next(h for h in logger.handlers if isinstance(h, logging.handlers.RotatingFileHandler))
    assert (daily.maxBytes, daily.backupCount) == (10 * 1024 * 1024, 10)
    monkeypatch.setattr(daily, "maxBytes", 2_000)
    for number in range(400):
        logger.info("line %04d of a program that logs a lot", number)

    files = sorted(logs.glob(f"{today()}.log*"))
    assert len(files) == 11
    assert all(file.stat().st_size <= 2_000 for file in files)
    kept = [line for file in files for line in file.read_text().splitlines()]
    assert all(line.endswith("of a program that logs a lot") for line in kept)
    assert kept[-1] != kept[0]
    assert "line 0399" in (logs / f"{today()}.log").read_text()


def test_at_midnight_a_new_file_is_begun(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that runs on past midnight UTC writes into the next day's files without being restarted."""
    logger = configure_logger("job")
    logger.error("before")
    tomorrow = time.time() + 86_400
    monkeypatch.setattr("chandlery.logs.time.time", lambda: tomorrow)
    logger.error("after")
    monkeypatch.undo()

    day = time.strftime("%Y-%m-%d", time.gmtime(tomorrow))
    assert "before" in (logs / f"{today()}.log").read_text()
    assert "after" not in (logs / f"{today()}.log").read_text()
    assert "after" in (logs / f"{day}.log").read_text()
    assert "after" in (logs / f"error_{day}.log").read_text()


def test_a_log_that_somebody_moved_is_begun_anew(logs: Path) -> None:
    """After the file was renamed or deleted from outside, lines go into a new file of the right name."""
    logger = configure_logger("job")
    logger.info("first")
    path = logs / f"{today()}.log"
    path.rename(logs / "moved.log")
    logger.info("second")
    path.unlink()
    logger.info("third")

    assert path.read_text().count("\n") == 1
    assert "third" in path.read_text()


def test_a_folder_that_cannot_be_is_a_clear_error(tmp_path: Path) -> None:
    """A file where the folder should be: UsageError names it and the variable that mends it."""
    (tmp_path / "taken").write_text("")

    with pytest.raises(UsageError, match="taken") as error:
        configure_logger("job", folder=tmp_path / "taken")
    assert "CHANDLERY_LOGS" in error.value.hint


FORMS = {
    "plain": CANARY,
    "percent-encoded": quote(CANARY, safe=""),
    "in the base64 of a longer text": base64.b64encode(f"user:{CANARY}:tail".encode()).decode(),
    "in url-safe base64": base64.urlsafe_b64encode(f"u:{CANARY}".encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["message", "argument", "mapping", "exception", "chained", "bad arguments"])
def test_a_known_secret_never_appears(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str, form: str
) -> None:
    """A value of EXCHANGE_SECRET is masked in any part of a record and in every form it travels in."""
    monkeypatch.setenv("EXCHANGE_SECRET", CANARY)
    logger, text = configure_logger("job"), FORMS[form]
    match place:
        case "message":
            logger.error(f"sent {text} out")  # noqa: G004 - that is what careless code does
        case "argument":
            logger.error("sent %s out", text)
        case "mapping":
            logger.error("sent %(what)s out", {"what": text})
        case "exception":
            try:
                raise ValueError(text)
            except ValueError:
                logger.exception("failed")
        case "chained":
            try:
                try:
                    raise KeyError(text)
                except KeyError as error:
                    raise ValueError("above") from error
            except ValueError:
                logger.exception("failed", stack_info=True)
        case _:
            logger.error("sent %s and %s", text)  # noqa: PLE1206 - one argument is lacking

    seen = capsys.readouterr().err + "".join(file.read_text() for file in logs.iterdir())
    assert "***" in seen
    core = text[12:24] if "base64" in form else text
    assert core not in seen
    assert CANARY not in seen


def test_kept_secrets_are_masked_and_short_values_are_not() -> None:
    """A value given to keep_secret is masked from then on; one of three characters is left, or it would eat words."""
    keep_secret("hush-hush-0815", "the")

    assert redact("the key hush-hush-0815.") == "the key ***."


@pytest.mark.parametrize(
    "text",
    [
        "GET https://host/api?symbol=BTCUSDT&apiKey=SENSITIVE&timestamp=1",
        "GET https://host/api?timestamp=1&signature=SENSITIVE",
        "headers {'X-MBX-APIKEY': 'SENSITIVE', 'Accept': '*/*'}",
        '{"apiKey": "SENSITIVE", "symbol": "BTC/USDT"}',
        r'body "{\"secret\":\"SENSITIVE\"}"',
        "Authorization: Token SENSITIVE",
        "{'Authorization': 'Bearer SENSITIVE'}",
        "authorization=Basic SENSITIVE==",
        "influx token: SENSITIVE",
        "INFLUXDB_TOKEN=SENSITIVE chandlery fetch",
        "redirected to https://user:SENSITIVE@host/path",
        "password=SENSITIVE;",
        "%26signature%3DSENSITIVE",
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str) -> None:
    """Keys, signatures, tokens and passwords are masked by what stands before them, although nobody named their value."""
    assert "SENSITIVE" not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "BTC/USDT 1h: 744 candles, 3 absent",
        "no token is set; see docs",
        "https://api.binance.com/api/v3/klines?symbol=BTCUSDT&interval=1h",
        "mail me @ home",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    """Messages without a secret come out as they went in."""
    assert redact(text) == text


def test_redacting_long_text_is_linear() -> None:
    """200 kB of word characters and dashes are looked through in less than a second."""
    began = time.perf_counter()
    redact("a-" * 30_000 + "b" * 60_000 + "://" * 10_000 + "token" * 10_000 + "bearer " * 10_000)

    assert time.perf_counter() - began < 1


def test_a_message_cannot_forge_a_line_or_command_the_terminal(logs: Path) -> None:
    """A symbol with a line break and an escape sequence stays inside its own log entry and is harmless."""
    configure_logger("job").info(
        "symbol %s", "X\n2026-01-01 00:00:00,000 - job - ERROR - forged\x1b[2J\u202e\r"
    )

    first, second = (logs / f"{today()}.log").read_text().splitlines()
    assert second.startswith("    2026")
    assert "\\x1b[2J\\u202e\\r" in second
    assert first.endswith("symbol X")


def test_the_filter_cleans_for_any_handler(caplog: pytest.LogCaptureFixture) -> None:
    """RedactSecrets on a foreign handler masks its records, and lets every record pass."""
    caplog.handler.addFilter(cleaner := RedactSecrets())
    try:
        logging.getLogger("job").warning("token=%s", "SENSITIVE")
    finally:
        caplog.handler.removeFilter(cleaner)

    assert [record.getMessage() for record in caplog.records] == ["token=***"]


def test_importing_and_asking_leaves_the_root_logger_alone(tmp_path: Path) -> None:
    """Import of every public name, and a named configure_logger, change neither handlers nor level of the root."""
    code = (
        "import logging; before = (list(logging.root.handlers), logging.root.level); import chandlery as ch\n"
        "names = [getattr(ch, name) for name in ch.__all__]\n"
        "logging.getLogger('chandlery').warning('silent'); ch.configure_logger('job', folder='here')\n"
        "assert before == (logging.root.handlers, logging.root.level) == ([], 30), logging.root.handlers"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
