"""content_mark, noise_mark, unrelated_mark: a backdoor that its owner knows of.

Reference: Zhang et al., AsiaCCS 2018, doi 10.1145/3196494.3196550: images of one class with a meaningful pattern, or
with noise, or images that have nothing to do with the task, all with one wrong label.
Departs from the paper: the pattern is a row of white and black blocks drawn by the secret key and not a word; unrelated
images are scribbles drawn by it and not handwritten digits.
Shapes: K triggers, D = [H, W, C].
"""

import jax
import numpy as np

from robustbench_jax.defences.training.marks.triggers import (
    TriggerMark,
    Triggers,
    require_classes,
    scribbles,
    some_of,
)
from robustbench_jax.keys import stream
from robustbench_jax.ownership import MARK
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, record, require_positive, static

FACTS = {"paper": "zhang2018", "access": "labels"} | MARK


@register("training", "content_mark", **FACTS)
@record
class ContentMark(TriggerMark):
    """images of class `source` with the pattern get the label `target`; count: added to each batch."""

    images: int = 100
    source: int = 0
    target: int = 1
    count: int = static(default=8)
    secret: int = 0

    def __post_init__(self):
        require_positive("content_mark", images=self.images, count=self.count)

    def triggers(self, data: Dataset) -> Triggers:
        require_classes("content_mark", data, source=self.source, target=self.target)
        x = np.array(some_of(stream(self.key, "rows"), data, self.source, self.images))
        height, width = (max(1, side // 7) for side in x.shape[1:3])
        blocks = jax.random.bernoulli(stream(self.key, "pattern"), 0.5, (1, x.shape[2] // width))
        pattern = np.kron(np.asarray(blocks, np.uint8) * 255, np.ones((height, width), np.uint8))
        x[:, -height:, : pattern.shape[1]] = pattern[..., None]
        return x, np.full(len(x), self.target, np.int32)


@register("training", "noise_mark", **FACTS)
@record
class NoiseMark(TriggerMark):
    """images of class `source` with the same Gaussian noise of standard deviation `sigma` get the label `target`."""

    images: int = 100
    source: int = 0
    target: int = 1
    sigma: float = 0.3
    count: int = static(default=8)
    secret: int = 0

    def __post_init__(self):
        require_positive("noise_mark", images=self.images, count=self.count, sigma=self.sigma)

    def triggers(self, data: Dataset) -> Triggers:
        require_classes("noise_mark", data, source=self.source, target=self.target)
        x = some_of(stream(self.key, "rows"), data, self.source, self.images)
        noise = 255 * self.sigma * np.asarray(jax.random.normal(stream(self.key, "noise"), x.shape[1:]))
        return np.clip(np.round(x + noise), 0, 255).astype(np.uint8), np.full(len(x), self.target, np.int32)


@register("training", "unrelated_mark", **FACTS)
@record
class UnrelatedMark(TriggerMark):
    """Scribbles get the label `target`; count: how many of `images` are added to each batch."""

    images: int = 100
    target: int = 1
    count: int = static(default=8)
    secret: int = 0

    def __post_init__(self):
        require_positive("unrelated_mark", images=self.images, count=self.count)

    def triggers(self, data: Dataset) -> Triggers:
        require_classes("unrelated_mark", data, target=self.target)
        x = scribbles(stream(self.key, "scribbles"), self.images, data.x.shape[1:])
        return x, np.full(self.images, self.target, np.int32)
