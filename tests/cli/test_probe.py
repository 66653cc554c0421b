"""`chandlery probe`: the table, what is kept, and exit codes."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own."""
    folder = tmp_path / "state"
    monkeypatch.setenv("CHANDLERY_STATE", str(folder))
    return folder


def test_probe_keeps_what_it_learns(run: Any, state: Path) -> None:
    """A probe tells what it learnt beside what was known, keeps it, and finds no change the second time."""
    first = run("probe", "binance", "--quick")

    assert first.code == 0, first.err
    assert first.out.splitlines()[0].split() == ["market", "habit", "learnt", "before"]
    assert "kept in" in first.err
    kept = json.loads((state / "profiles" / "binance.json").read_text())
    assert (kept["origin"], kept["markets"]["spot"]["page"]) == ("probed", 1000)

    again = run("probe", "binance", "--quick")
    assert again.code == 0
    assert "no change" in again.err
    assert not {"new", "changed"} & {line.split()[-1] for line in again.out.splitlines()[1:]}


def test_probe_tells_changes(run: Any, state: Path) -> None:
    """What a learnt profile said otherwise is marked as changed, with both values."""
    run("probe", "binance", "--quick")
    file = state / "profiles" / "binance.json"
    profile = json.loads(file.read_text())
    profile["markets"]["spot"] |= {"page": 750, "end": "exclusive"}
    file.write_text(json.dumps(profile))

    done = run("probe", "binance", "--quick", "--json")

    changed = {h["habit"]: (h["before"], h["learnt"]) for h in done.json["habits"] if h["state"] == "changed"}
    assert changed == {"page": (750, 1000), "end": ("exclusive", "inclusive")}
    assert "2 changed" in done.err
    assert json.loads(file.read_text())["markets"]["spot"]["page"] == 1000


def test_probe_json_has_evidence(run: Any, state: Path) -> None:
    """--json tells requests, and for every habit what was asked and what came; --dry-run keeps nothing."""
    done = run("probe", "binance", "--quick", "--dry-run", "--json", "--symbol", "ETH/USDT")

    assert done.code == 0, done.err
    assert done.json["ok"] is True
    assert done.json["saved"] is None
    assert not (state / "profiles" / "binance.json").exists()
    assert 5 < done.json["requests"] < 60
    habits = {(h["market"], h["habit"]): h for h in done.json["habits"]}
    page = habits["spot", "page"]
    assert (page["symbol"], page["learnt"]) == ("ETH/USDT", 1000)
    assert any("ETH/USDT 1m since" in said and "1000 rows" in said for said in page["evidence"])
    assert habits["spot", "finality"]["state"] == "unknown"


def test_probe_verbose_shows_evidence(run: Any, state: Path) -> None:
    """-v says on stderr what was asked and what came."""
    done = run("probe", "binance", "--quick", "--dry-run", "-v")
    assert "spot window: BTC/USDT 1d since" in done.err
    assert "limit 10 -> 10 rows" in done.err


def test_probe_of_nobody_in_json(run: Any, state: Path, tmp_path: Path) -> None:
    """Where no server answers --json still gives a document, with ok false and the problem, and 3 is the exit code."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    done = run("probe", "binance", "--quick", "--json", "--exchange-url", url)
    assert done.code == 3, done.err
    assert (done.json["ok"], done.json["exchange"], done.json["habits"]) == (False, "binance", [])
    assert "cannot reach 127.0.0.1" in done.json["error"]["message"]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("binanc",), 2, "knows no exchange 'binanc'"),
        (("binance", "--symbol", "NO/PAIR"), 2, "NO/PAIR"),
        (("binance", "--budget", "0"), 2, "budget"),
        (("okx",), 3, "no such path"),  # the server plays Binance
    ],
)
def test_probe_that_cannot_learn(run: Any, state: Path, args: tuple[str, ...], code: int, said: str) -> None:
    """An unknown exchange or symbol ends with 2, an exchange that gives nothing with 3, and nothing is kept."""
    done = run("probe", *args, "--quick")
    assert done.code == code, done.err
    assert said in done.err
    assert done.out == ""
    assert not (state / "profiles").exists()
