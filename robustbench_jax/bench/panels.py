"""Panels: clean image, perturbation and adversarial image of the first examples that an attack broke, as PNG bytes.

The perturbation is shown around grey, scaled so that its largest entry is white or black; how much, its caption says.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustbench_jax.bench import records, roc_plots
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify
from robustbench_jax.types import Classifier, Dataset
from robustbench_jax.whole_files import write_whole

MOST = 8  # examples of one panel
FOLDER = "images"


@dataclass(frozen=True)
class Example:
    """x and x_adv float32 [H, W, C] in [0, 1]; the names of the true class and of the one it was taken for."""

    id: int
    x: np.ndarray
    x_adv: np.ndarray
    true: str
    taken: str


def save(out: str | Path, id: str, title: str, model: Classifier | None, data: Dataset) -> Path | None:
    """Writes OUT/images/ID.png from what is stored of a cell: adversarial examples, or triggered images with what they
    were taken for, in which case no model is asked, or the ROC curve of membership inference; None where there are
    none.
    """
    stored = Path(out, records.ARRAYS, f"{id}.npz")
    if not stored.is_file():
        return None
    with np.load(stored) as arrays:
        if "fpr" in arrays:
            curve = roc_plots.picture(arrays["fpr"], arrays["tpr"], title, int(np.sum(~arrays["members"])))
            return _written(Path(out, FOLDER, f"{id}.png"), curve)
        if "reconstructions" in arrays:
            return _written(Path(out, FOLDER, f"{id}.png"), _inverted(arrays, title, data.classes))
        found = {name: arrays[name][:MOST] for name in ("ids", "x_adv", "taken") if name in arrays}
    if not len(found.get("ids", ())):
        return None
    ids, x_adv = found["ids"], as_unit(found["x_adv"])
    taken, x = found["taken"] if "taken" in found else classify(model, x_adv), as_unit(data.x[ids])
    rows = zip(ids, x, x_adv, data.y[ids], taken, strict=True)
    examples = [Example(int(i), a, b, data.classes[y], data.classes[t]) for i, a, b, y, t in rows]
    return _written(Path(out, FOLDER, f"{id}.png"), panel(examples, title))


def _inverted(arrays, title: str, classes: tuple[str, ...]) -> bytes:
    """The mean image of each of the first classes above the first reconstruction of it, as the judge takes it."""
    labels = arrays["labels"]
    first = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)[:MOST]]
    rows = [(i, labels[i], arrays["judged"][i], as_unit(arrays["reconstructions"][i])) for i in first]
    return panel([Example(i, arrays["means"][y], x, classes[y], classes[said]) for i, y, said, x in rows], title)


def _written(path: Path, picture: bytes) -> Path:
    write_whole(path, lambda file: file.write(picture))
    return path


def panel(examples: list[Example], title: str) -> bytes:
    """PNG: one column an example, three rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(1.35 * len(examples), 6.5), 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, len(examples), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for column, example in zip(axes.T, examples, strict=True):
        delta = example.x_adv - example.x
        largest = float(np.abs(delta).max())
        _show(column[0], example.x, _plain(example.true))
        _show(column[1], 0.5 + delta / (2 * max(largest, 1e-12)), f"max {largest:.3f}")
        _show(column[2], example.x_adv, _plain(example.taken))
    figure.suptitle(_plain(title), fontsize=9, family="monospace", x=0.01, ha="left")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=140, metadata={"Software": None})
    return file.getvalue()


def _show(axis, image: np.ndarray, caption: str) -> None:
    """Grey for one channel, colour for three; of any other number the mean."""
    shown = image if image.shape[-1] in (1, 3) else image.mean(-1, keepdims=True)
    axis.imshow(np.clip(shown, 0, 1).squeeze(-1) if shown.shape[-1] == 1 else shown, cmap="gray", vmin=0, vmax=1)
    axis.set_title(caption, fontsize=8)


def _plain(text: str) -> str:
    return text.replace("$", r"\$")
