"""Learning curves as PNG and SVG bytes: robust overfitting is a solid line that falls under a dashed one that rises."""

import textwrap

import numpy as np

from robustbench_jax.bench.plots import COLOURS, drawn
from robustbench_jax.bench.trainings import Training
from robustbench_jax.ops.statistics import clopper_pearson

WIDE, LETTERS = 3, 62  # panels side by side; letters in a line of a title
LINES = (  # what is drawn, as what, and how
    ("accuracy", "training images, as the defence made them", "--", COLOURS[1]),
    ("clean", "held out, clean", ":", COLOURS[2]),
    ("robust", "held out, attacked (95% of each seed); ○: kept", "-", COLOURS[0]),
)


def picture(found: list[Training]) -> dict[str, bytes]:
    """One panel for each model, with a line for each of its seeds."""
    return drawn(lambda: _figure(found))


def _figure(found: list[Training]):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((training.dataset, training.model) for training in found))
    wide = min(len(panels), WIDE)
    high = -(-len(panels) // wide)
    figure = Figure(figsize=(3.7 * wide + 0.4, 3.0 * high + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(high, wide, sharey=True, squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        _panel(axis, *panel, [training for training in found if (training.dataset, training.model) == panel])
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy (%)")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=1, fontsize=8, borderaxespad=0.2)
    return figure


def _panel(axis, dataset: str, model: str, each: list[Training]) -> None:
    for number, training in enumerate(each):
        epochs = 1 + np.arange(len(training.robust))
        for column, what, style, colour in LINES:
            label = None if number else what
            axis.plot(epochs, 100 * getattr(training, column), style, color=colour, linewidth=1.3, label=label)
        low, high = 100 * np.array([_interval(share, training.held) for share in training.robust]).T
        axis.fill_between(epochs, low, high, color=COLOURS[0], alpha=0.12, linewidth=0)
        kept = training.kept
        axis.plot(kept, 100 * training.robust[kept - 1], "o", color=COLOURS[0], markersize=5, fillstyle="none")
    axis.set_title(_wrapped(model), fontsize=6, family="monospace", loc="left")
    axis.set_ylim(-2, 102)
    axis.set_xlim(left=0)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel(_wrapped(f"epoch · {dataset}"), fontsize=7)


def _wrapped(text: str) -> str:
    """In lines that fit a panel, with dollar signs that begin no formula."""
    return "\n".join(textwrap.wrap(text.replace("$", r"\$"), LETTERS))


def _interval(share: float, held: int) -> tuple[float, float]:
    return clopper_pearson(round(share * held), held)
