"""A chart as a PNG: candles above, volume below, grey where there is no candle."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from chandlery.chart.bars import Bars, decimals_for, padded, ticks

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

#: With more bars than this a picture would have less than four pixels for each.
PICTURE_BARS = 360
_WIDTH, _HEIGHT, _DPI = 12.8, 7.2, 125  # inches; 1600 x 900 pixels
_UP, _DOWN = "#1b9e8a", "#d9483b"
_INK, _FAINT, _GRID, _HOLE = "#22262b", "#6b7280", "#e5e7eb", "#eceef1"
_BODY = 0.7  # of a slot


def draw_png(bars: Bars) -> bytes:
    """The bars as a PNG file of 1600 x 900 pixels."""
    # Without pyplot there is no state between charts, so that they may be drawn in any thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    price, volume = figure.subplots(
        2,
        1,
        sharex=True,
        gridspec_kw={
            "height_ratios": (4, 1),
            "hspace": 0.04,
            "left": 0.02,
            "right": 0.92,
            "top": 0.9,
            "bottom": 0.06,
        },
    )
    x = bars.slot.astype(float) + 0.5
    up = bars.close >= bars.open
    for axes in (price, volume):
        _frame(axes, bars)
    _candles(price, bars, x, up)
    _volume(volume, bars, x, up)
    _time_axis(volume, bars)
    _titles(price, bars)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _frame(axes: Axes, bars: Bars) -> None:
    """The empty panel: grid, price scale on the right, and the holes."""
    import numpy as np
    from matplotlib.collections import PolyCollection

    for side in ("top", "left", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(visible=True, color=_GRID, linewidth=0.8)
    axes.yaxis.tick_right()
    axes.tick_params(length=0, labelsize=9, labelcolor=_INK)
    after = np.flatnonzero(np.diff(bars.slot) > 1)
    holes = [
        ((a + 1, 0), (b, 0), (b, 1), (a + 1, 1))
        for a, b in zip(bars.slot[after], bars.slot[after + 1], strict=True)
    ]
    axes.add_collection(
        PolyCollection(
            holes, facecolors=_HOLE, linewidths=0, transform=axes.get_xaxis_transform(), zorder=0.5
        ),
        autolim=False,
    )


def _candles(axes: Axes, bars: Bars, x: NDArray[np.float64], up: NDArray[np.bool_]) -> None:
    import numpy as np
    from matplotlib.collections import LineCollection
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    colours = np.where(up, _UP, _DOWN)
    wicks = np.stack([np.column_stack([x, bars.low]), np.column_stack([x, bars.high])], axis=1)
    axes.add_collection(LineCollection(list(wicks), colors=colours, linewidths=1.1), autolim=False)
    bottom, top = np.minimum(bars.open, bars.close), np.maximum(bars.open, bars.close)
    # The edge keeps a body visible that opens and closes at the same price.
    _boxes(axes, x, bottom, top, colours, edge=0.9)
    low, high = padded(float(bars.low.min()), float(bars.high.max()))
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(8))
    marks = axes.yaxis.get_major_locator().tick_values(low, high)
    digits = decimals_for(float(marks[1] - marks[0]) * 1.001)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.{digits}f}"))
    axes.tick_params(labelbottom=False)


def _volume(axes: Axes, bars: Bars, x: NDArray[np.float64], up: NDArray[np.bool_]) -> None:
    import numpy as np
    from matplotlib.ticker import EngFormatter, MaxNLocator

    _boxes(axes, x, np.zeros_like(x), bars.volume, np.where(up, _UP, _DOWN), alpha=0.55)
    axes.set_ylim(0, float(bars.volume.max()) * 1.08 or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(3, prune="upper"))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.text(0.004, 0.94, "volume", transform=axes.transAxes, fontsize=9, color=_FAINT, va="top")


def _boxes(
    axes: Axes,
    x: NDArray[np.float64],
    bottom: NDArray[np.float64],
    top: NDArray[np.float64],
    colours: NDArray[np.str_],
    *,
    edge: float = 0.0,
    alpha: float = 1.0,
) -> None:
    import numpy as np
    from matplotlib.collections import PolyCollection

    left, right = x - _BODY / 2, x + _BODY / 2
    corners = [(left, bottom), (right, bottom), (right, top), (left, top)]
    boxes = np.stack([np.column_stack(corner) for corner in corners], axis=1)
    axes.add_collection(
        PolyCollection(
            list(boxes),
            facecolors=colours,
            edgecolors=colours if edge else "none",
            linewidths=edge,
            alpha=alpha,
        ),
        autolim=False,
    )


def _time_axis(axes: Axes, bars: Bars) -> None:
    first, last = int(bars.slot[0]), int(bars.slot[-1])
    room = max(1.0, (last - first + 1) * 0.01)
    axes.set_xlim(first - room, last + 1 + room)
    marks = ticks(bars, 10)
    axes.set_xticks([place for place, _ in marks], [text for _, text in marks])


def _titles(axes: Axes, bars: Bars) -> None:
    """Symbol, timeframe, exchange and range above the chart, never read as formulas."""
    left = axes.set_title(
        _drawable(bars.title), loc="left", fontsize=14, fontweight="bold", color=_INK, pad=14
    )
    right = axes.set_title(bars.range_text, loc="right", fontsize=10, color=_FAINT, pad=14)
    left.set_parse_math(False)
    right.set_parse_math(False)
    left.set_clip_on(True)


def _drawable(text: str, most: int = 70) -> str:
    """`text` with the characters that the font lacks written out, and its middle left out where it is too long."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans:bold"))
    text = "".join(
        c if font.get_char_index(ord(c)) else c.encode("unicode_escape").decode("ascii") for c in text
    )
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
