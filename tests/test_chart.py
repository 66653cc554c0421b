"""Charts: what is merged, what is shown as a hole, and that nothing hostile reaches the screen."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chandlery.candle import SCHEMA, SeriesId, no_candles
from chandlery.chart import PICTURE_BARS, bars_of, chart_suffix, draw_png, draw_text, text_bars
from chandlery.chart.bars import ticks
from chandlery.errors import UsageError

START = 1_704_067_200_000  # 2024-01-01, a Monday
BTC = SeriesId("binance", "BTC/USDT", "1h")
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def walk(slots: list[int], series: SeriesId = BTC, *, price: float = 40_000.0, seed: int = 1) -> pl.DataFrame:
    """Candles of a random walk at these slots after START."""
    rng = np.random.default_rng(seed)
    frame = series.frame
    close = price * np.exp(np.cumsum(rng.normal(0, 0.004, len(slots))))
    opened = np.concatenate([[price], close[:-1]])[: len(slots)]
    return pl.DataFrame(
        {
            "time": pl.Series([frame.add(frame.floor(START), s) for s in slots], dtype=pl.Int64).cast(
                SCHEMA["time"]
            ),
            "open": opened,
            "high": np.maximum(opened, close) * 1.002,
            "low": np.minimum(opened, close) * 0.998,
            "close": close,
            "volume": rng.lognormal(3, 1, len(slots)),
        }
    )


def pixels(png: bytes) -> np.ndarray:  # type: ignore[type-arg]
    """The picture as bytes: height, width, red green blue."""
    from matplotlib.image import imread

    return np.round(imread(io.BytesIO(png), format="png")[:, :, :3] * 255).astype(int)


def test_few_candles_are_drawn_as_they_are() -> None:
    """Candles that fit are not merged, and the title says symbol, timeframe and exchange, the range the count."""
    candles = walk(list(range(20)))
    bars = bars_of(candles, BTC, most=100)

    assert bars.title == "BTC/USDT  1h  binance"
    assert bars.range_text == "2024-01-01 00:00 to 2024-01-01 20:00 UTC, 20 candles"
    assert bars.close.tolist() == candles["close"].to_list()


def test_too_many_candles_are_merged_and_the_title_says_so() -> None:
    """5,000 minutes become quarters of an hour: first open, highest high, lowest low, last close, sum of volumes."""
    minute = SeriesId("binance", "BTC/USDT", "1m")
    candles = walk(list(range(5000)), minute)
    bars = bars_of(candles, minute, most=PICTURE_BARS)

    assert bars.title == "BTC/USDT  1m drawn as 15m  binance"
    assert "5,000 candles" in bars.range_text
    first = candles.head(15)
    assert (bars.open[0], bars.close[0]) == (first["open"][0], first["close"][14])
    assert (bars.high[0], bars.low[0]) == (first["high"].max(), first["low"].min())
    assert bars.volume.sum() == pytest.approx(candles["volume"].sum())
    assert len(bars.slot) == 334


@settings(max_examples=60, deadline=None)
@given(
    timeframe=st.sampled_from(["1s", "1m", "3m", "1h", "4h", "1d", "3d", "1w", "1M"]),
    length=st.integers(1, 4000),
    most=st.integers(10, 400),
)
def test_bars_fit_and_lose_nothing(timeframe: str, length: int, most: int) -> None:
    """Whatever the timeframe, bars are no more than there is room for, and highs, lows and volumes are all in them."""
    series = SeriesId("binance", "X/Y", timeframe)
    candles = walk(list(range(min(length, 500 if timeframe in ("1w", "1M") else 4000))), series)
    bars = bars_of(candles, series, most=most)

    assert len(bars.slot) <= most
    assert bars.high.max() == candles["high"].max()
    assert bars.low.min() == candles["low"].min()
    assert bars.volume.sum() == pytest.approx(candles["volume"].sum())
    assert (bars.open[0], bars.close[-1]) == (candles["open"][0], candles["close"][-1])
    assert len(ticks(bars, 10)) <= 10


def test_nothing_to_draw_is_said() -> None:
    """A frame without candles is a usage error that names the series."""
    with pytest.raises(UsageError, match="BTC/USDT"):
        bars_of(no_candles(), BTC, most=10)


def test_the_picture_is_a_png_of_its_size() -> None:
    """The picture is 1600 x 900, white around, with green and red candles."""
    png = draw_png(bars_of(walk(list(range(168))), BTC, most=PICTURE_BARS))
    image = pixels(png)

    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert image.shape == (900, 1600, 3)
    assert (image[0] == 255).all()
    for colour in ((27, 158, 138), (217, 72, 59)):
        assert (image == colour).all(axis=2).sum() > 500


def test_a_hole_in_the_data_is_a_grey_hole_in_the_picture() -> None:
    """Where candles lack, the picture is grey from top to bottom; without a hole no pixel is."""
    grey = np.array((0xEC, 0xEE, 0xF1))
    whole = pixels(draw_png(bars_of(walk(list(range(100))), BTC, most=PICTURE_BARS)))
    holed = pixels(draw_png(bars_of(walk([*range(40), *range(60, 100)]), BTC, most=PICTURE_BARS)))

    columns = np.flatnonzero((holed == grey).all(axis=2).sum(axis=0) > 500)
    assert not (whole == grey).all(axis=2).any()
    # A fifth of the panel, which is 0.9 of 1600 pixels, around its middle.
    assert 250 < len(columns) < 320
    assert abs(columns.mean() - 0.47 * 1600) < 15
    assert not (holed[:, columns[5] : columns[-5]] == (217, 72, 59)).all(axis=2).any()


@pytest.mark.parametrize("candles", [1, 2, 20, 5000])
def test_any_number_of_candles_makes_a_picture(candles: int) -> None:
    """One candle, two, twenty and five thousand are drawn."""
    bars = bars_of(walk(list(range(candles))), BTC, most=PICTURE_BARS)

    assert pixels(draw_png(bars)).shape == (900, 1600, 3)


def test_a_market_that_stands_still_makes_a_picture() -> None:
    """Equal prices and no volume at all are drawn, in the picture and in the terminal."""
    still = walk(list(range(30))).with_columns(
        *(pl.lit(0.00001234).alias(n) for n in ("open", "high", "low", "close")), pl.lit(0.0).alias("volume")
    )
    bars = bars_of(still, BTC, most=60)

    assert pixels(draw_png(bars)).shape == (900, 1600, 3)
    assert "┃" in draw_text(bars)


@pytest.mark.parametrize(
    "symbol",
    [
        "\x1b]0;owned\x07/USDT",
        "a\nb",
        "$\\frac{1}{0}$",
        "$x$ $y",
        "\u202eTDSU/CTB",
        "漢字/USDT",
        "x" * 300,
        "\ud800",
    ],
)
def test_hostile_symbols_are_drawn_as_text(symbol: str) -> None:
    """Control characters, formulas, direction marks and missing glyphs neither fail nor reach terminal or title raw."""
    series = SeriesId("binance", symbol, "1h")
    bars = bars_of(walk(list(range(30)), series), series, most=60)

    assert pixels(draw_png(bars)).shape == (900, 1600, 3)
    text = draw_text(bars, width=80)
    assert all(c.isprintable() for line in text.split("\n") for c in line)
    assert max(map(len, text.split("\n"))) <= 80


@settings(max_examples=60, deadline=None)
@given(
    slots=st.sets(st.integers(0, 3000), min_size=1, max_size=300),
    width=st.integers(40, 200),
    height=st.integers(14, 60),
    price=st.sampled_from([1e-8, 0.00001234, 1.0, 42_000.0, 1e12]),
    colour=st.booleans(),
)
def test_text_charts_keep_their_size(
    slots: set[int], width: int, height: int, price: float, colour: bool
) -> None:
    """A chart in the terminal is never wider or higher than asked, and has escape codes only if colours are asked for."""
    bars = bars_of(walk(sorted(slots), price=price), BTC, most=text_bars(width))
    text = draw_text(bars, width=width, height=height, colour=colour)
    lines = ESCAPE.sub("", text).split("\n")

    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert ("\x1b" in text) is colour
    assert "\x1b" not in ESCAPE.sub("", text)


def test_each_candle_has_its_column_and_each_hole_too() -> None:
    """Columns with a candle are those of its slot; a hole is blank in prices and volume."""
    slots = [*range(20), *range(30, 60)]
    lines = draw_text(bars_of(walk(slots), BTC, most=text_bars(80)), width=80, height=30).split("\n")
    canvas = [line[:60].ljust(60) for line in lines[2:-3]]

    drawn = [n for n in range(60) if any(line[n] != " " for line in canvas)]
    assert drawn == slots


def test_up_and_down_differ_without_colours() -> None:
    """A rising and a falling candle have different signs where there is no colour, and the legend names them."""
    for close, body in ((110.0, "┃"), (90.0, "█")):
        candle = walk([0]).with_columns(
            pl.lit(100.0).alias("open"),
            pl.lit(112.0).alias("high"),
            pl.lit(88.0).alias("low"),
            pl.lit(close).alias("close"),
        )
        lines = draw_text(bars_of(candle, BTC, most=60)).split("\n")
        assert body in "".join(line[0] for line in lines[2:-6])
        assert lines[-1].startswith("┃ up  █ down")


def test_price_labels_tell_lines_apart() -> None:
    """Labels of the price axis differ from each other for a market worth a thousandth of a cent."""
    lines = draw_text(bars_of(walk(list(range(60)), price=0.00001234), BTC, most=60)).split("\n")
    labels = [line.split("┤ ")[1] for line in lines if "┤ " in line and "vol" not in line]

    assert len(labels) >= 3
    assert labels == sorted(set(labels), reverse=True)


@pytest.mark.parametrize(("name", "said"), [("x.html", "x.png"), ("x.svg", ".png"), ("x", ".png")])
def test_other_endings_are_refused(name: str, said: str) -> None:
    """A chart into anything but .png is a usage error whose hint names a .png file."""
    with pytest.raises(UsageError, match=re.escape(name)) as caught:
        chart_suffix(Path(name))

    assert said in caught.value.hint
    assert chart_suffix(Path("x.PNG")) == ".png"
