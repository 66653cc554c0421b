"""Profiles where they are kept: shipped ones, learnt ones, damaged ones."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from chandlery.errors import UsageError
from chandlery.sources.limits import Cost, RequestLimit
from chandlery.sources.profile import LINEAR, SPOT, Habits, Profile, profile_from
from chandlery.sources.profile_book import ProfileBook, shipped, shipped_ids

LEARNT = Profile(
    exchange="bigone",
    markets={SPOT: Habits(page=500, depth={"1m": 1440, "*": 700}, begin="exclusive", volume="quote")},
    limits=(RequestLimit("all", 500, 10_000, costs=(Cost("/candles", 2, ((100, 1.0),)),)),),
    anchors={"1w": 3 * 86_400_000},
    in_flight=2,
    origin="probed",
    at=1_700_000_000_000,
    ccxt="4.5.90",
)


def test_a_profile_that_is_saved_is_loaded(tmp_path: Path) -> None:
    """What was learnt comes back from the folder as it went in, limits, costs and depths included."""
    book = ProfileBook(tmp_path)
    assert book.load("bigone") is None
    path = book.save(LEARNT)
    assert path.parent == tmp_path / "profiles"
    assert ProfileBook(tmp_path).load("bigone") == LEARNT
    assert book.learnt("bigone") == LEARNT


def test_a_profile_replaces_the_one_before(tmp_path: Path) -> None:
    """Saving twice keeps the second, and leaves no other file than it and the lock."""
    book = ProfileBook(tmp_path)
    book.save(LEARNT)
    book.save(replace(LEARNT, in_flight=5))
    assert book.load("bigone") == replace(LEARNT, in_flight=5)
    assert sorted(file.name for file in (tmp_path / "profiles").iterdir()) == [".lock", "bigone.json"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "it is not JSON"),
        ("[]", "a list, a name or a number"),
        ('{"exchange": "okx"}', "markets"),
        ('{"exchange": "kraken", "markets": {}}', "kraken"),
        ('{"exchange": "okx", "markets": {"spot": {"page": 1}}}', "a page of 1"),
        ('{"exchange": "okx", "markets": {"spot": {"page": 100, "order": "random"}}}', "random"),
        ('{"\udcff"}', "it is not JSON"),
        ("[" * 100_000, "nested too deep"),
        *(
            (f'{{"exchange": "okx", "markets": {{"spot": {{"page": 100{habit}}}}}{more}}}', says)
            for habit, more, says in [
                (', "depth": {"*": 1e400}', "", "depth of * = inf, which is no whole number"),
                (', "pages": {"1m": -1}', "", "pages of 1m = -1"),
                (', "recent_page": 2000000', "", "recent_page = 2000000"),
                (', "recent": {"1m": 1.5}', "", "recent of 1m = 1.5"),
                (', "finality": 1e400', "", "finality = inf"),
                (', "finality": "1"', "", "finality = '1'"),
                ("", ', "at": 1e400', "at = inf"),
                ("", ', "in_flight": -3', "in_flight = -3"),
                ("", ', "in_flight": true', "in_flight = True"),
                ("", ', "anchors": {"1w": 1e400}', "anchor of 1w = inf"),
                ("", ', "anchors": {"1w": 99999999999999999999}', "anchor of 1w"),
                ("", ', "limits": [{"name": "a", "weight": 1e400, "window_ms": 1}]', "inf"),
                (
                    "",
                    ', "limits": [{"name": "a", "weight": 1, "window_ms": 9, "costs": [{"path": "a", "weight": 1e400}]}]',
                    "inf",
                ),
            ]
        ),
        ('{"exchange": "okx", "markets": {"spot": {"page": 1e400}}}', "page = inf"),
    ],
)
def test_a_damaged_file_is_a_warning_and_the_shipped_profile_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, says: str
) -> None:
    """A learnt profile that cannot be read is named with its damage and the mend, and the shipped one is taken."""
    book = ProfileBook(tmp_path)
    book.folder.mkdir()
    book.path("okx").write_text(text, "utf-8", errors="surrogateescape")
    with caplog.at_level(logging.WARNING):
        assert book.load("okx") == shipped("okx")
    [said] = [record.getMessage() for record in caplog.records]
    assert str(book.path("okx")) in said
    assert says in said
    assert "chandlery probe okx" in said


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Saving where a file stands in the way of the folder raises an error with the path and the mend."""
    (tmp_path / "profiles").write_text("in the way")
    with pytest.raises(UsageError) as caught:
        ProfileBook(tmp_path).save(LEARNT)
    assert str(tmp_path / "profiles" / "bigone.json") in caught.value.message
    assert "CHANDLERY_STATE" in caught.value.hint


def test_what_was_learnt_counts_before_what_is_shipped(tmp_path: Path) -> None:
    """A learnt page size takes the place of the shipped one; limits, and habits not learnt, stay those that are shipped."""
    known = shipped("okx")
    assert known is not None
    learnt = Profile("okx", {SPOT: Habits(page=77, order="ascending")}, origin="probed", at=1)
    book = ProfileBook(tmp_path)
    book.save(learnt)
    found = book.load("okx")
    assert found is not None
    spot = found.habits(SPOT)
    assert spot is not None
    assert (spot.page, spot.order) == (77, "ascending")
    assert spot.volume == known.markets[SPOT].volume == "base"
    assert found.limits == known.limits
    assert found.markets[LINEAR] == known.markets[LINEAR]
    assert found.origin == "probed"


_SAVE_OFTEN = """
import sys
from pathlib import Path
from chandlery.sources.profile import Habits, Profile
from chandlery.sources.profile_book import ProfileBook
for _ in range(50):
    ProfileBook(Path(sys.argv[1])).save(Profile("bigone", {"spot": Habits(page=int(sys.argv[2]))}))
"""


def test_processes_that_save_at_once_leave_a_whole_profile(tmp_path: Path) -> None:
    """While two processes replace a profile again and again, what is read is always one of theirs, never a part."""
    book = ProfileBook(tmp_path)
    book.save(replace(LEARNT, markets={SPOT: Habits(page=100)}))
    writers = [
        subprocess.Popen([sys.executable, "-c", _SAVE_OFTEN, str(tmp_path), page]) for page in ("100", "200")
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        seen.add(json.loads(book.path("bigone").read_bytes())["markets"]["spot"]["page"])
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= {100, 200}


@pytest.mark.parametrize("exchange", shipped_ids())
def test_a_shipped_profile_is_of_its_exchange_and_survives_json(exchange: str) -> None:
    """Each shipped file names the exchange it is called after, and comes through JSON unchanged."""
    profile = shipped(exchange)
    assert profile is not None
    assert profile.exchange == exchange
    assert profile.markets
    assert profile_from(json.loads(json.dumps(profile.to_dict())), source="JSON") == profile


@pytest.mark.parametrize("exchange", ["nosuch", "../profiles/okx", "", "okx.toml"])
def test_what_is_not_shipped_is_none(exchange: str) -> None:
    """No profile for an exchange without one, and none for what is no id."""
    assert shipped(exchange) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nope", "it is not JSON"),
        ('{"exchange": "kraken"}', "markets is not there"),
        (
            '{"exchange": "kraken", "markets": [1]}',
            "a list, a name or a number stands where something else belongs",
        ),
        ('{"exchange": "kraken", "markets": {"spot": {}}}', "page is not there"),
        ('{"exchange": "gate", "markets": {"spot": {"page": 9}}}', "it is of 'gate'"),
    ],
)
def test_damage_is_told_in_plain_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, words: str
) -> None:
    """The warning about a damaged profile names the file once and says what is wrong without Python's words."""
    book = ProfileBook(tmp_path)
    book.folder.mkdir()
    book.path("kraken").write_text(text)
    assert book.learnt("kraken") is None
    (told,) = caplog.messages
    assert told.count(str(book.path("kraken"))) == 1
    assert f": {words}; " in told
    assert "Error" not in told
