"""Security policies: which checks a model has to pass, and from which number on it does.

title = "..."    contacts = ["security@example.org"]    serving = "policy.toml"
undecided = "fail"            # what it counts as when the interval of a number lies on both sides of the limit
[training]                    # how models like it are trained, for threats to the training (where --model is trained)
model = "cnn"    recipe = "adamw(epochs=5)"    defence = "standard"
[[check]]
name = "withstands small changes"    attack = "pgd(steps=40)"    budget = "linf(0.05)"    examples = 500
metric = "robust_accuracy"    at_least = 0.5
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_jax import toml_tables
from robustbench_jax.bench.cells import Cell, kind_of_model, make_cell, trains
from robustbench_jax.definitions import DEFINITIONS
from robustbench_jax.registry import build, nearest
from robustbench_jax.types import UserError

TOP = ("title", "contacts", "serving", "undecided", "training", "check")
TRAINING = ("model", "recipe", "defence")
OF_A_CELL = (
    *("attack", "certifier", "budget", "examples", "seed"),
    *("model_defence", "data_defence", "inspection", "monitor"),
)
LIMITS = {"at_least": "higher", "at_most": "lower"}
CHECK = ("name", *OF_A_CELL, "metric", *LIMITS)


@dataclass(frozen=True)
class Check:
    """One cell, and the limit of one of its metrics. better: "higher" or "lower" than the limit."""

    name: str
    cell: Cell
    metric: str
    limit: float
    better: str


@dataclass(frozen=True)
class SecurityPolicy:
    """strict: whether a number that may lie on either side of its limit fails. serving: the policy file of the server
    that the model runs behind; empty for none.
    """

    title: str
    contacts: tuple[str, ...]
    serving: str
    strict: bool
    checks: tuple[Check, ...]


def load_policy(path: str | Path, **victim: Any) -> SecurityPolicy:
    """Reads a policy file for a model. victim: model, dataset and, where given, defence, recipe and model_defence.

    Raises UserError that names the file and what is wrong in it, before anything is run.
    """
    return toml_tables.named(path, _policy, toml_tables.read(path), victim)


def _policy(table: dict[str, Any], victim: dict[str, Any]) -> SecurityPolicy:
    toml_tables.require_known(table, TOP, "a security policy")
    checks, training = table.get("check", []), table.get("training", {})
    if not isinstance(checks, list) or not checks or not all(isinstance(it, dict) for it in checks):
        raise UserError("a security policy needs [[check]] tables; see configs/audit.toml")
    toml_tables.require_known(training, TRAINING, "[training]")
    undecided = table.get("undecided", "fail")
    if undecided not in ("fail", "pass"):
        raise UserError(f"undecided = {undecided!r} must be 'fail' or 'pass'")
    contacts = table.get("contacts", [])
    if not isinstance(contacts, list) or not all(isinstance(it, str) for it in contacts):
        raise UserError(f"contacts = {contacts!r} must be a list of texts")
    made = []
    for number, given in enumerate(checks, 1):
        try:
            made.append(_check(given, victim, training))
        except UserError as error:
            raise UserError(f"check {number} ({given.get('name', 'without a name')}): {error}") from None
    names = [check.name for check in made]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"two checks are called {twice!r}")
    title = table.get("title", "Security audit")
    return SecurityPolicy(title, tuple(contacts), table.get("serving", ""), undecided == "fail", tuple(made))


def _check(given: dict[str, Any], victim: dict[str, Any], training: dict[str, str]) -> Check:
    toml_tables.require_known(given, CHECK, "a check")
    if not isinstance(given.get("name"), str):
        raise UserError("it needs a name")
    metric, better, limit = _limit(given)
    fields = {key: value for key, value in (victim | given).items() if key in (*OF_A_CELL, *victim)}
    return Check(given["name"], make_cell(**_victim_of(fields, training)), metric, limit, better)


def _limit(given: dict[str, Any]) -> tuple[str, str, float]:
    """(metric, which side is better, limit)."""
    metric, limits = given.get("metric"), [key for key in LIMITS if key in given]
    if metric not in DEFINITIONS:
        raise UserError(f"no metric '{metric}'{nearest(str(metric), DEFINITIONS)}")
    if len(limits) != 1:
        raise UserError("it needs one limit, at_least or at_most")
    better, limit = DEFINITIONS[metric].better, given[limits[0]]
    if LIMITS[limits[0]] != better:
        wanted = next(key for key, side in LIMITS.items() if side == better)
        raise UserError(f"{limits[0]} = {limit}: of {metric} {better} is better; write {wanted}")
    if not isinstance(limit, int | float) or isinstance(limit, bool):
        raise UserError(f"{limits[0]} = {limit!r} must be a number")
    return metric, better, float(limit)


def _victim_of(fields: dict[str, Any], training: dict[str, str]) -> dict[str, Any]:
    """The fields of the cell: of a threat to the training with the architecture of [training] where the model is
    trained already.
    """
    attack = fields.get("attack")
    threat = build("attack", attack).facts["threat"] if attack else "certification"
    if not trains(threat):
        return fields
    fields = {key: value for key, value in fields.items() if key != "model_defence" or value}
    if kind_of_model(fields["model"]) == "model":
        return fields
    if "model" not in training:
        raise UserError(
            f"'{fields['model']}' is trained already and threat '{threat}' trains models of its own; say how in "
            '[training], e.g. model = "cnn"'
        )
    return fields | training
