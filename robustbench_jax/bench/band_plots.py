"""Bands as PNG and SVG bytes: attacked accuracy as a line, certified accuracy as a dashed one, the band between."""

import numpy as np

from robustbench_jax.bench.bands import Band
from robustbench_jax.bench.curves import Point
from robustbench_jax.bench.plots import AXES, COLOURS, FEW, MARKS, drawn


def picture(bands: list[Band]) -> dict[str, bytes]:
    """One panel for each data set and norm; a model has one colour and mark in all of them."""
    return drawn(lambda: _figure(bands))


def _figure(bands: list[Band]):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = sorted({(band.dataset, band.axis) for band in bands})
    models = sorted({band.model for band in bands})
    wide, high = min(len(panels), 3), -(-len(panels) // 3)
    figure = Figure(figsize=(3.9 * wide + 0.4, 3.1 * high + 0.4 + 0.18 * len(models)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(high, wide, sharey=True, squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        for band in (band for band in bands if (band.dataset, band.axis) == panel):
            _draw(axis, band, models.index(band.model))
        axis.set_ylim(-2, 102)
        axis.set_xlim(left=0)
        axis.set_xlabel(f"eps, {AXES.get(panel[1], panel[1])} · {panel[0]}")
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy (%)")
    _legend(figure, axes.flat)
    return figure


def _draw(axis, band: Band, number: int) -> None:
    colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
    name = band.model.replace("$", r"\$")
    for points, style, what in ((band.attacked, "-", "attacked"), (band.certified, "--", "certified")):
        if not points:
            continue
        x, y = _line(points)
        shown = mark if len(x) <= FEW else None
        axis.plot(x, y, style, color=colour, marker=shown, markersize=4, linewidth=1.5, label=f"{name}, {what}")
    if band.attacked and band.certified:
        (a, above), (c, below) = _line(band.attacked), _line(band.certified)
        x = np.union1d(a, c)
        x = x[x <= min(a[-1], c[-1])]
        axis.fill_between(x, np.interp(x, c, below), np.interp(x, a, above), color=colour, alpha=0.15, linewidth=0)


def _line(points: list[Point]) -> tuple[np.ndarray, np.ndarray]:
    """Radii and accuracies in per cent."""
    return np.array([point.at for point in points]), np.array([100 * point.metric.value for point in points])


def _legend(figure, axes) -> None:
    found = {}
    for axis in axes:
        found |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        found.values(), found, loc="outside lower left", ncols=1, fontsize=8, borderaxespad=0.2, handlelength=4
    )
