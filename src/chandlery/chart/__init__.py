"""Candlestick charts: a picture (`draw_png`) or text for a terminal (`draw_text`), both from the same `Bars`."""

from __future__ import annotations

from chandlery.chart.bars import Bars, bars_of, chart_suffix
from chandlery.chart.picture import PICTURE_BARS, draw_png
from chandlery.chart.terminal import draw_text, text_bars

__all__ = ["PICTURE_BARS", "Bars", "bars_of", "chart_suffix", "draw_png", "draw_text", "text_bars"]
