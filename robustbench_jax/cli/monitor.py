"""monitor: one cell of monitoring, or an audit log replayed before monitors."""

import argparse
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np

from robustbench_jax.bench import console
from robustbench_jax.bench.cells import canonical_model, kind_of_model
from robustbench_jax.bench.workshop import load_model, watching
from robustbench_jax.cli.cells import cell_of, one_cell, require_verb
from robustbench_jax.data import load_dataset
from robustbench_jax.registry import canonical, short
from robustbench_jax.serving.audit_log import requests, verify
from robustbench_jax.serving.chain import Entry
from robustbench_jax.serving.redaction import restored
from robustbench_jax.streams import answered
from robustbench_jax.traffic import Request, replay
from robustbench_jax.types import Classifier, Dataset, UserError


def monitor(options: argparse.Namespace) -> int:
    """A cell: as other verbs. A log: prints the alarms with their evidence by account; 1 where there are any."""
    if options.log is not None:
        return _replay(options)
    for name in ("attack", "budget"):
        if getattr(options, name) is None:
            raise UserError(f"give --log, or an attack: the following arguments are required: --{name}")
    if len(options.monitor) != 1:
        raise UserError(f"--monitor is given {len(options.monitor)} times; an attack is replayed before one of them")
    cell = cell_of(options, attack=options.attack, monitor=options.monitor[0])
    require_verb("monitor", cell)
    return one_cell(options, cell)


def _replay(options: argparse.Namespace) -> int:
    for name in ("attack", "budget", "defence", "recipe", "model_defence", "examples", "out"):
        if getattr(options, name):
            raise UserError(f"--log says what was asked; leave out --{name.replace('_', '-')}")
    for call in options.monitor:
        canonical("monitor", call)
    if kind_of_model(options.model) == "model":
        raise UserError(f"'{canonical_model(options.model)}' has no weights; name the model that was served")
    state = verify(options.log)
    if not state:
        raise UserError(f"the log does not verify: {state.problems[0]}; see: robustbench-jax log verify")
    model, data = load_model(options.model), load_dataset(options.dataset, "train", None)
    asked = list(logged(options.log, model, data))
    monitors = {short("monitor", call): watching(model, call, data, options.seed) for call in options.monitor}
    found = _alarms(monitors, asked)
    print(json.dumps(found)) if options.json else _show(found, asked, options.log)
    return 1 if found else 0


def logged(path: str | Path, model: Classifier, data: Dataset) -> Iterator[Request]:
    """The requests of a log, an image each, with the answers that it kept, or else the model's. UserError where inputs
    were not kept whole.
    """
    shape, number = data.x.shape[1:], 0
    for request in requests(path):
        if request.x is None:
            raise UserError(f'{path}, entry {request.entry.number}: the input was not kept; log with the policy "full"')
        images = request.x[None] if request.x.shape == shape else request.x
        if images.shape[1:] != shape:
            raise UserError(f"{path}, entry {request.entry.number}: images {list(images.shape[1:])}, not {list(shape)}")
        when = datetime.fromisoformat(request.entry.time).timestamp()
        answers = _kept(path, request.entry, len(images))
        if answers is None:
            answers = answered(model, [levels(images)])[0].logits
        for x, logits in zip(levels(images), answers, strict=True):
            yield Request(str(request.account), when, number, x, logits)
            number += 1


def _kept(path: str | Path, entry: Entry, count: int) -> np.ndarray | None:
    """Logits [count, C] of an entry, where they were kept."""
    try:
        logits = restored(entry.get("logits"))
    except ValueError as error:
        raise UserError(f"{path}, entry {entry.number}: {error}") from None
    return None if logits is None or logits.shape[:1] != (count,) or logits.ndim != 2 else logits


def levels(images: np.ndarray) -> np.ndarray:
    """uint8 of images that are uint8 or in [0, 1]."""
    return images if images.dtype == np.uint8 else np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)


def _alarms(monitors: dict, asked: list[Request]) -> list[dict]:
    return [
        {"account": request.account, "time": request.time, "request": request.number, "monitor": name}
        | {"score": verdict.score, "evidence": verdict.evidence}
        for request, verdicts in replay(monitors, asked)
        for name, verdict in verdicts.items()
        if verdict.alarm
    ]


def _show(found: list[dict], asked: list[Request], path: str) -> None:
    """For each account and monitor the first alarm and the one of the highest score, with their evidence."""
    accounts: dict[str, dict[str, list[dict]]] = {}
    for alarm in found:
        accounts.setdefault(alarm["account"], {}).setdefault(alarm["monitor"], []).append(alarm)
    for account, monitors in sorted(accounts.items(), key=lambda item: -sum(map(len, item[1].values()))):
        console.say(f"ALARM {account}: {sum(map(len, monitors.values()))} alarms")
        for name, own in monitors.items():
            highest = max(own, key=lambda alarm: alarm["score"])
            console.say(f"  {name}: {len(own)}; first {_told(own[0])}")
            console.say(f"  {' ' * len(name)}  highest {_told(highest)}")
    console.say(
        f"{path}: {len(asked)} images of {len({it.account for it in asked})} accounts, alarms about {len(accounts)}"
    )


def _told(alarm: dict) -> str:
    return f"request {alarm['request']}, score {alarm['score']:.4g}: {json.dumps(alarm['evidence'])}"
