"""robustbench_jax: attacks, defences and certificates of machine learning, benchmarked in JAX.

import robustbench_jax as rb
model, data = rb.load_model("fashion_mnist/linf/pgd_at"), rb.load_dataset("fashion_mnist_mini")
record = rb.attack(model, data, "pgd(steps=40)", "linf(0.1)", examples=500)
"""

import robustbench_jax.certify  # noqa: F401 the package, before the function takes its name
from robustbench_jax.api import attack, certify, evaluate, monitor, poison, privacy, protect, steal, watermark
from robustbench_jax.bench.workshop import load_model
from robustbench_jax.data import load_dataset
from robustbench_jax.models import build_model
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.types import Classifier, Dataset, UserError

__all__ = [
    "Classifier",
    "Dataset",
    "Runtime",
    "UserError",
    "attack",
    "build_model",
    "certify",
    "evaluate",
    "load_dataset",
    "load_model",
    "monitor",
    "poison",
    "privacy",
    "protect",
    "steal",
    "watermark",
]
