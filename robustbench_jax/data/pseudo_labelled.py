"""pseudo_labelled(dataset, teacher): training images with the labels that a trained model gives them.

Reference: Carmon et al., NeurIPS 2019, arXiv:1905.13736 (robust self-training): a standard model labels extra images
once, and adversarial training on `joined([own, pseudo_labelled(extra, teacher)])` takes these labels for the truth.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.ops.judge import classify
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record


@register("dataset", "pseudo_labelled", paper="carmon2019", parts={"dataset": "dataset", "teacher": "pretrained"})
@record
class PseudoLabelled:
    """dataset: whose own labels are not looked at, in training; a file without any needs zeros in their place. Of the
    test split images and labels are the dataset's own.
    """

    dataset: Any
    teacher: Any

    def available(self) -> bool:
        return self.dataset.available()

    def how_to_get(self) -> str:
        return self.dataset.how_to_get()

    def load(self, split: str, limit: int | None) -> Dataset:
        """Raises UserError where the teacher does not take these images."""
        data = self.dataset.load(split, limit)
        if split == "test":
            return data
        teacher, _ = self.teacher.load()
        classes = _classes(teacher, data)
        names = data.classes if len(data.classes) == classes else tuple(map(str, range(classes)))
        return Dataset(data.x, classify(teacher, data.x).astype("int32"), names, data.name)


def _classes(teacher: Classifier, data: Dataset) -> int:
    shape = data.x.shape[1:]
    try:
        keyed = teacher.keyed(jax.random.key(0))
        return jax.eval_shape(keyed, jax.ShapeDtypeStruct(shape, jnp.float32)).shape[-1]
    except (TypeError, ValueError) as error:
        told = str(error).splitlines()[0]
        raise UserError(f"pseudo_labelled: the teacher does not take images of shape {list(shape)}: {told}") from error
