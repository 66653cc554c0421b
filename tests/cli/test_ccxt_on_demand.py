"""ccxt imported without the exchange classes that nobody asked for is the same ccxt."""

from __future__ import annotations

import subprocess
import sys

import pytest

from chandlery.exchange import ExchangeSettings, LocalExchange

START = "from chandlery.cli.ccxt_on_demand import on_demand; on_demand(); import sys, ccxt.async_support\n"


def answer(code: str, *, on_demand: bool = True) -> str:
    """What the code prints in a new interpreter, with ccxt's classes imported on demand or as ccxt does."""
    start = START if on_demand else "import sys, ccxt.async_support\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_only_what_is_used_is_imported() -> None:
    """A class that is looked for is imported with what it is derived from, and no other."""
    code = """
ccxt.async_support.binanceusdm
print(*(name for name in ccxt.exchanges if f"ccxt.{name}" in sys.modules or f"ccxt.async_support.{name}" in sys.modules))
"""

    assert answer(code) == "binance binanceusdm"


@pytest.mark.parametrize("package", ["ccxt", "ccxt.async_support"])
def test_all_names_are_those_of_ccxt(package: str) -> None:
    """Every public name of both packages is there, in `dir` too, and is the same kind of thing of the same module."""
    code = f"""
import types
package = {package}
for name in sorted(package.__all__):
    found = getattr(package, name)
    assert name in dir(package), name
    print(name, type(found).__name__, getattr(found, "__module__", ""), getattr(found, "__mro__", ""))
"""

    assert answer(code) == answer(code, on_demand=False)


KRAKEN = "<class 'ccxt.kraken.kraken'>"
KRAKEN_ASYNC = "<class 'ccxt.async_support.kraken.kraken'>"


@pytest.mark.parametrize(
    ("look", "found"),
    [
        ("from ccxt import kraken; print(kraken)", KRAKEN),
        ("from ccxt.async_support import kraken; print(kraken)", KRAKEN_ASYNC),
        ("import ccxt.kraken as kraken; print(kraken, ccxt.kraken)", f"{KRAKEN} {KRAKEN}"),
        ("from ccxt.kraken import kraken; print(kraken, ccxt.kraken)", f"{KRAKEN} {KRAKEN}"),
        ("import ccxt.krakenfutures; print(type(sys.modules['ccxt.krakenfutures']))", "<class 'module'>"),
        (
            "import pickle; print(pickle.loads(pickle.dumps(ccxt.kraken)), ccxt.kraken().id)",
            f"{KRAKEN} kraken",
        ),
        ("import importlib; print(importlib.reload(ccxt).kraken)", KRAKEN),
        ("print(hasattr(ccxt, 'no_exchange'), hasattr(ccxt, 'kraken'))", "False True"),
        ("from ccxt.pro.kraken import kraken; print(kraken.__mro__[1])", KRAKEN_ASYNC),
    ],
)
def test_a_class_is_the_same_however_it_is_looked_for(look: str, found: str) -> None:
    """Every way to a class of ccxt ends at the class."""
    assert answer(look) == found


def test_a_ccxt_that_is_imported_already_stays_as_it_is() -> None:
    """Called after an import of ccxt, it changes nothing of that."""
    code = """
before = dict(vars(ccxt))
from chandlery.cli.ccxt_on_demand import on_demand
on_demand()
import ccxt.async_support
print(type(ccxt).__name__, before == dict(vars(ccxt)), ccxt.kraken)
"""

    assert answer(code, on_demand=False) == "module True <class 'ccxt.kraken.kraken'>"


def test_the_command_line_imports_one_exchange_only() -> None:
    """A command that talks to one exchange imports the classes of that one."""
    code = """
sys.argv = ["chandlery", "markets", "--json", "--exchange-url", "{url}"]
from chandlery.cli.main import main
try:
    main()
except SystemExit as end:
    print("ended with", end.code)
print(*(name for name in ccxt.exchanges if f"ccxt.{name}" in sys.modules or f"ccxt.async_support.{name}" in sys.modules))
"""
    with LocalExchange(ExchangeSettings()) as exchange:
        printed = answer(code.replace("{url}", exchange.url)).splitlines()

    assert printed[-2:] == ["ended with 0", "binance"]
