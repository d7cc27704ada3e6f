"""ROC curves of membership inference on logarithmic axes, where a few members found for certain can be seen."""

import numpy as np

from robustbench_jax.bench.plots import COLOURS, drawn


def picture(fpr: np.ndarray, tpr: np.ndarray, title: str, others: int) -> bytes:
    """PNG of one curve; others: how many non-members, 1 / others being the smallest rate that there is."""
    return drawn(lambda: _figure(fpr, tpr, title, others))["png"]


def _figure(fpr: np.ndarray, tpr: np.ndarray, title: str, others: int):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis, least = figure.subplots(), 1 / others
    axis.plot([least, 1], [least, 1], "--", color="0.6", linewidth=1, label="chance")
    axis.step(np.maximum(fpr, least), np.maximum(tpr, least), where="post", color=COLOURS[0], label="attack")
    axis.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1.05))
    axis.set(xlabel="false positive rate", ylabel="true positive rate")
    axis.set_title(title.replace("$", r"\$"), fontsize=8, loc="left", wrap=True)
    axis.legend(loc="lower right", fontsize=8)
    return figure
