"""Worst cases of aggregation rules as PNG and SVG bytes: a heat map of rules by how images are dealt out and by f.

A place says the accuracy in per cent and, below it, the attack that leaves so little.
"""

import numpy as np

from robustbench_jax.bench.plots import drawn
from robustbench_jax.bench.worst_cases import Map

BRIGHT = 0.55  # accuracies from which letters are black


def picture(maps: list[Map]) -> dict[str, bytes]:
    """One panel for each map, with one scale of colours from 0 to 100."""
    return drawn(lambda: _figure(maps))


def _figure(maps: list[Map]):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    widths = [len(it.columns) for it in maps]
    high = max(len(it.rules) for it in maps)
    figure = Figure(figsize=(1.1 * sum(widths) + 1.6 * len(maps) + 1.2, 0.48 * high + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(maps), squeeze=False, width_ratios=widths)[0]
    for axis, it in zip(axes, maps, strict=True):
        shown = _panel(axis, it)
    figure.colorbar(shown, ax=list(axes), label="worst accuracy (%)")
    return figure


def _panel(axis, it: Map):
    values = np.full((len(it.rules), len(it.columns)), np.nan)
    for (rule, wanted), worst in it.places.items():
        row, column = it.rules.index(rule), it.columns.index(wanted)
        values[row, column] = 100 * worst.value
        colour = "black" if worst.value >= BRIGHT else "white"
        axis.text(column, row, f"{values[row, column]:.1f}", ha="center", va="bottom", color=colour, fontsize=8)
        axis.text(column, row + 0.08, worst.attack, ha="center", va="top", color=colour, fontsize=5)
    shown = axis.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    axis.grid(False)
    columns = [f"{dealt.replace(', ', chr(10)) or 'dealt evenly'}\nf = {f}" for dealt, f in it.columns]
    axis.set_xticks(range(len(columns)), columns, fontsize=7)
    axis.set_yticks(range(len(it.rules)), it.rules, family="monospace", fontsize=8)
    axis.tick_params(length=0)
    axis.set_title(it.title, fontsize=8, family="monospace", loc="left")
    return shown
