"""Loss surfaces: the margin around an image along the gradient and a random direction, as PNG and SVG bytes.

An honest model's surface rises along the gradient and hardly across it; steps, plateaus and noise are masks.
"""

from robustbench_jax.bench.obfuscation_report import Surface
from robustbench_jax.bench.plots import drawn

WIDE = 3


def picture(found: list[Surface]) -> dict[str, bytes]:
    """One panel a surface, each with its own scale; the line is where the prediction changes."""
    return drawn(lambda: _figure(found))


def _figure(found: list[Surface]):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wide = min(len(found), WIDE)
    high = -(-len(found) // wide)
    figure = Figure(figsize=(3.4 * wide, 3.0 * high), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(high, wide, squeeze=False)
    for axis, surface in zip(axes.flat, found, strict=False):
        _panel(figure, axis, surface)
    for axis in list(axes.flat)[len(found) :]:
        axis.set_visible(False)
    return figure


def _panel(figure, axis, surface: Surface) -> None:
    shown = axis.imshow(surface.values, origin="lower", extent=(-1, 1, -1, 1), cmap="viridis", aspect="auto")
    if surface.values.min() < 0 < surface.values.max():
        axis.contour(surface.values, levels=[0.0], colors="white", linewidths=1.0, extent=(-1, 1, -1, 1))
    axis.grid(False)
    axis.set_title(f"{surface.model}\n{surface.place}".replace("$", r"\$"), fontsize=6, family="monospace", loc="left")
    axis.set_xlabel("along the gradient")
    axis.set_ylabel("random direction")
    figure.colorbar(shown, ax=axis, label="margin")
