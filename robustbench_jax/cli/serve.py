"""serve: a trained model behind HTTP, as a policy says."""

import argparse
import hashlib
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np

from robustbench_jax.bench import console
from robustbench_jax.bench.workshop import load_trained, protect, watching
from robustbench_jax.data import load_dataset
from robustbench_jax.registry import build, canonical
from robustbench_jax.traffic import Watch
from robustbench_jax.types import Classifier, UserError


def serve(options: argparse.Namespace) -> int:
    """Runs until SIGTERM or SIGINT; 0 then."""
    from robustbench_jax.serving import policy, server
    from robustbench_jax.serving.accounts import Accounts
    from robustbench_jax.serving.service import Served, Service

    rules = policy.load(options.policy)
    Accounts.load(rules.accounts)  # what is wrong is said before anything that takes long
    port = server.bound(options.host, options.port)
    poison = "" if rules.responses.poison == policy.WRONG_LABEL else rules.responses.poison
    for defence in filter(None, (options.model_defence, poison)):
        canonical("model_defence", defence)
    images = _training_images(options.dataset, (options.model_defence, poison), [it.call for it in rules.monitor])
    model, about = load_trained(options.model)

    def protected(call: str) -> Classifier:
        return protect(model, call, images(call), options.seed)

    served = protected(options.model_defence) if options.model_defence else model
    poisoned = protected(poison) if poison else None
    watch = Watch(_monitors(rules.monitor, served, images, options.seed)) if rules.monitor else None
    name = " + ".join(filter(None, (options.model, options.model_defence)))
    what = Served(served, name, tuple(about["shape"]), about["classes"], _identity(served, options))
    service = Service(rules, what, watch, poisoned)
    url = server.url_of(port)
    console.say(f"listening at {url}; ready once {url}/readyz says so")
    server.serve(service, port)
    console.say("stopped; the log is closed")
    return 0


class Unnamed:
    """In the place of training images that nobody named: a UserError for whoever looks at them."""

    def __init__(self, call: str):
        self._call = call

    def __getattr__(self, name: str) -> Any:
        self.missed()

    def __len__(self) -> int:
        self.missed()

    def missed(self) -> NoReturn:
        raise UserError(f"'{self._call}' is fitted to training images: give --dataset")


def _training_images(dataset: str | None, defences: tuple[str, str], monitors: list[str]) -> Callable[[str], Any]:
    """The training images for a call; UserError where it is clear now that there should be some."""
    if not dataset:
        for call in monitors:
            if build("monitor", call).threshold is None:
                Unnamed(call).missed()
        return Unnamed
    data = load_dataset(dataset, "train") if any((*defences, *monitors)) else None
    return lambda call: data


def _monitors(listed: tuple, model: Classifier, images: Callable[[str], Any], seed: int) -> dict:
    """By call string; prepared as those that a log is replayed through are (`monitor --log`)."""
    made = {}
    for monitor in listed:
        console.say(f"preparing {monitor.call}")
        made[monitor.call] = watching(model, monitor.call, images(monitor.call), seed)
    return made


def _identity(model: Classifier, options: argparse.Namespace) -> str:
    """Of the weights, the defence and its seed: two servers with the same one answer alike."""
    sha = hashlib.sha256(repr((options.model_defence, options.seed if options.model_defence else 0)).encode())
    for leaf in jax.tree.leaves(model.params):
        value = np.asarray(leaf)
        sha.update(repr((value.shape, str(value.dtype))).encode() + np.ascontiguousarray(value).tobytes())
    return sha.hexdigest()
