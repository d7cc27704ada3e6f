"""Robustness curves: robust accuracy against radius or queries, with 95% bands, as PNG and SVG bytes."""

import io
from collections.abc import Callable

from robustbench_jax.bench.curves import Curve

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe & Ito, 2008
MARKS = "osD^vP*"
FEW = 12  # points up to which each gets its mark
AXES = {"linf": r"$\ell_\infty$", "l2": r"$\ell_2$", "l1": r"$\ell_1$", "l0": r"$\ell_0$"}


def curves(lines: list[Curve]) -> dict[str, bytes]:
    """One panel for each (dataset, axis, attack, budget); a model has one colour and mark in all of them."""
    return drawn(lambda: _figure(lines))


def drawn(draw: Callable) -> dict[str, bytes]:
    """The figure that `draw` makes, in the plots' style, as PNG and SVG."""
    import matplotlib

    style = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "robustbench_jax",
        "axes.grid": True,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(style):
        figure = draw()
        made = {}
        for kind, options in (("png", {"dpi": 160}), ("svg", {})):
            file = io.BytesIO()
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(file, format=kind, metadata=metadata, bbox_inches="tight", **options)
            made[kind] = file.getvalue()
    return made


def _figure(lines: list[Curve]):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = sorted(set(map(_place, lines)))
    models = sorted({line.model for line in lines})
    wide = min(len(panels), 3)
    high = -(-len(panels) // wide)
    figure = Figure(figsize=(3.5 * wide + 0.4, 2.9 * high + 0.2 + 0.18 * len(models)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(high, wide, sharey=True, squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        _panel(axis, panel, [line for line in lines if _place(line) == panel], models)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("robust accuracy (%)")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=1, fontsize=8, borderaxespad=0.2)
    return figure


def _place(line: Curve) -> tuple[str, str, str, str]:
    return line.dataset, line.axis, line.attack, line.budget


def _panel(axis, panel: tuple[str, str, str, str], lines: list[Curve], models: list[str]) -> None:
    dataset, along, attack, budget = panel
    for line in lines:
        colour, mark = (choices[models.index(line.model) % 7] for choices in (COLOURS, MARKS))
        x = [point.at for point in line.points]
        value, low, high = (
            [100 * getattr(point.metric, name) for point in line.points] for name in ("value", "low", "high")
        )
        axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(
            x,
            value,
            color=colour,
            marker=mark if len(x) <= FEW else None,
            markersize=4,
            linewidth=1.5,
            label=line.model,
        )
    axis.set_title(attack, fontsize=9, family="monospace", loc="left")
    axis.set_ylim(-2, 102)
    if along == "queries":
        axis.set_xscale("log")
        axis.set_xlabel(f"queries, {budget} · {dataset}")
    else:
        axis.set_xlim(left=0)
        axis.set_xlabel(f"eps, {AXES.get(along, along)} · {dataset}")
