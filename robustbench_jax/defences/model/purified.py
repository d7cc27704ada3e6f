"""purified(denoiser): the image is covered with noise and drawn anew by a model that removes noise.

References: DiffPure, Nie et al., ICML 2022, arXiv:2205.07460; one step of a denoiser: denoised smoothing, Salman et
al., NeurIPS 2020, arXiv:2003.01908.
Departs from the paper: the way back is one step of the denoiser for each round, where DiffPure follows the reverse
equation of a diffusion model in many small steps. Gradients pass everything.
Shapes: D image shape.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.model.preprocessing import Preprocessing
from robustbench_jax.keys import stream
from robustbench_jax.models.denoiser import fit_denoiser
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record, require_positive, static


@register("model_defence", "purified", paper="nie2022", parts={"denoiser": "pretrained"}, given=("loaded",))
@record
class Purified(Preprocessing):
    """denoiser: a trained model from images to images, e.g. checkpoint("dir"). Without one, a `denoiser_cnn` of
    `width` channels is fitted to the training images in `steps` batches of `batch`.

    sigma: the standard deviation, on the scale of [0, 1], of the noise that it is fitted to remove. noise: whether as
    much is added to the image first; without, the defence is deterministic. rounds: of noise and denoiser.
    """

    denoiser: Any = static(default=None)
    sigma: float = 0.2
    noise: bool = True
    rounds: int = static(default=1)
    steps: int = static(default=500)
    batch: int = static(default=64)
    width: int = static(default=32)
    loaded: Any = None

    def __post_init__(self):
        require_positive("purified", sigma=self.sigma, rounds=self.rounds)
        require_positive("purified", steps=self.steps, batch=self.batch, width=self.width)

    @property
    def stochastic(self) -> bool:
        return self.noise

    def fitted(self, key: jax.Array, data: Dataset) -> "Purified":
        if self.denoiser is None:
            how = {"sigma": self.sigma, "steps": self.steps, "batch": self.batch, "width": self.width}
            return self.replace(loaded=fit_denoiser(stream(key, "denoiser"), data, **how))
        loaded, shape = self.denoiser.load()[0], data.x.shape[1:]
        self._check(loaded, shape)
        return self.replace(loaded=loaded)

    def _check(self, loaded: Any, shape: tuple[int, ...]) -> None:
        try:
            got = jax.eval_shape(loaded, jax.ShapeDtypeStruct(shape, np.float32)).shape
        except (TypeError, ValueError) as error:
            raise UserError(f"purified: the denoiser does not take images of shape {list(shape)}") from error
        if got != shape:
            raise UserError(f"purified: the denoiser returns shape {list(got)} for images of shape {list(shape)}")

    def transform(self, key: jax.Array | None, x: jax.Array) -> jax.Array:
        if self.loaded is None:
            raise UserError("purified: there is no denoiser before protect(...)")
        for number in range(self.rounds):
            if self.noise:
                x = x + self.sigma * jax.random.normal(jax.random.fold_in(key, number), x.shape)
            x = jnp.clip(self.loaded(x), 0.0, 1.0)
        return x
