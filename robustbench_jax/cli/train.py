"""train: a model, kept as a directory."""

import argparse
from pathlib import Path

from robustbench_jax.bench import console, victims
from robustbench_jax.bench.cells import require_seed
from robustbench_jax.data import load_dataset
from robustbench_jax.ops.judge import predict
from robustbench_jax.registry import canonical, parse


def train(options: argparse.Namespace) -> int:
    require_seed(options.seed)
    defence, recipe = options.defence or "standard", options.recipe or "sgd"
    what = {
        "model": canonical("model", options.model),
        "defence": canonical("training", defence),
        "recipe": canonical("recipe", recipe),
        "dataset": canonical("dataset", options.dataset),
        "seed": options.seed,
    }
    parts = (parse(options.model).name, parse(options.dataset).name, parse(defence).name, f"seed{options.seed}")
    out = Path(options.out or Path("models", "-".join(parts)))
    data = load_dataset(options.dataset, "train")
    with console.progress() as bars:
        model = victims.train(
            what | {"data": data.digest}, data, out, lambda progress: bars.training(options.model, progress)
        )
    test = load_dataset(options.dataset, "test")
    accuracy = float((predict(model, test.x).argmax(-1) == test.y).mean())
    console.say(f"clean accuracy on {len(test)} test images: {accuracy:.3f}")
    console.say(f"written: {out}; use it as --model 'checkpoint(\"{out}\")'")
    return 0
