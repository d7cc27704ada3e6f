"""Cells: what one result is a result of.

A cell holds every component as its canonical call string, so that its id, a hash of them, is the same however it was
written. What changes only the speed (Runtime) is not in it.
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from robustbench_jax.models import robustbench, zoo
from robustbench_jax.registry import Call, build, canonical, discover, entry, nearest, parse, short
from robustbench_jax.types import UserError

KINDS = {
    "dataset": "dataset",
    "attack": "attack",
    "certifier": "certifier",
    "budget": "budget",
    "defence": "training",
    "recipe": "recipe",
    "model_defence": "model_defence",
    "data_defence": "data_defence",
    "inspection": "inspection",
    "monitor": "monitor",
}
METHODS = ("attack", "certifier")  # a cell has one of them
OF_TRAINING = ("data_defence", "inspection")  # only where the threat is to the training
USED = {"backdoor": OF_TRAINING, "poisoning": ("data_defence",), "monitoring": ("monitor",)}  # by threat
OF_SOME = (*OF_TRAINING, "monitor")  # only where the threat has a use for it
AUDITS = ("audit", "repeated_audit", "white_box_audit")
OPTIONAL = (*METHODS, "model_defence", *OF_SOME)  # left out of the id where they are empty
UNDEFENDED = ("byzantine", "attribute", *AUDITS, "model_inversion", "ownership")  # where no model defence is of use
SEEDS = 2**32  # jax.random.key tells no more apart


class Cell(BaseModel):
    """One (threat, dataset, model, defence, attack or certifier, budget, seed). examples: the first so many, None for
    all.

    defence and recipe are those of a model that is trained for the cell; empty for one that exists already.
    model_defence: what is made of the trained model; data_defence: what is left out of poisoned training data;
    inspection: what looks for a backdoor in the trained model; monitor: what watches the requests to it; empty for
    nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threat: str = "evasion"
    dataset: str
    split: str = "test"
    examples: int | None = None
    model: str
    defence: str = ""
    recipe: str = ""
    model_defence: str = ""
    data_defence: str = ""
    inspection: str = ""
    monitor: str = ""
    attack: str = ""
    certifier: str = ""
    budget: str
    seed: int = 0

    @property
    def id(self) -> str:
        """The one of attack and certifier that is empty is left out of it, and so is no model defence."""
        fields = {name: value for name, value in self.model_dump().items() if value or name not in OPTIONAL}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def method(self) -> str:
        """The attack or the certifier, as tables show it."""
        return self.show("certifier" if self.certifier else "attack")

    @property
    def victim(self) -> str:
        """The model, how it was trained and what was made of it, as tables show it."""
        return " + ".join(filter(None, map(self.show, ("model", "defence", "data_defence", "model_defence"))))

    def show(self, field: str) -> str:
        """A component as tables show it."""
        text = getattr(self, field)
        try:
            kind = kind_of_model(text) if field == "model" else KINDS[field]
            return short(kind, text) if text and kind else text
        except UserError:  # a record of something that this version does not have
            return text

    def label(self) -> str:
        return f"{self.victim} · {self.method} · {self.show('budget')}"


def make_cell(**fields: Any) -> Cell:
    """A cell from call strings as people write them. Raises UserError for everything that cannot be run."""
    known = Cell.model_fields
    for name in fields:
        if name not in known:
            raise UserError(f"no field '{name}' in a cell{nearest(name, known)}")
    method = _method(fields)
    for name in ("dataset", "model", method, "budget"):
        if not isinstance(fields.get(name), str):
            lacking = "attack or certifier" if name == "attack" else name
            raise UserError(
                f"{name} = {fields[name]!r} must be a call string" if name in fields else f"{lacking} is missing"
            )
    _check_numbers(fields)
    trained = kind_of_model(fields["model"]) == "model"
    fields = fields | {
        name: fields.get(name) or (default if trained else "")
        for name, default in (("defence", "standard"), ("recipe", "sgd"))
    }
    if not trained and (fields["defence"] or fields["recipe"]):
        raise UserError(f"'{fields['model']}' is trained already; defence and recipe are for architectures such as cnn")
    absent = [name for name in ("defence", "recipe", *OPTIONAL) if not fields.get(name) and name != method]
    written = {name: "" if name in absent else canonical(kind, fields[name]) for name, kind in KINDS.items()}
    made = {name: build(KINDS[name], fields[name]) for name in KINDS if name != "dataset" and name not in absent}
    fields["threat"] = _threat(fields.get("threat"), method, fields[method], made[method], fields["budget"])
    _check_training(fields, trained, made[method])
    return Cell(**fields | written | {"model": canonical_model(fields["model"])})


def trains(threat: str) -> bool:
    """Whether the threat is to the training: its cells train models of their own."""
    return bool(entry("threat", threat).facts.get("trains"))


def verb_of(threat: str) -> str:
    """The verb of the command line, and the function, that runs cells of the threat."""
    facts = entry("threat", threat).facts
    return facts.get("verb", "poison" if facts.get("trains") else "attack")


def _check_training(fields: dict[str, Any], trained: bool, method: Any) -> None:
    """UserError for a trained model where training is attacked, and for what makes no sense in the cell's threat."""
    threat = fields["threat"]
    if trains(threat) and not trained:
        raise UserError(
            f"'{fields['model']}' is trained already: threat '{threat}' trains models of its own; name an architecture "
            "such as cnn"
        )
    unused = [name for name in OF_SOME if name not in USED.get(threat, ())]
    unused += ["model_defence"] if threat in UNDEFENDED else []
    for name in unused:
        if fields.get(name):
            raise UserError(f"{name} = {fields[name]!r}: threat '{threat}' has no use for it; leave it out")
    if threat == "monitoring" and not fields.get("monitor"):
        raise UserError("monitor is missing: threat 'monitoring' measures one; see robustbench-jax list monitors")
    if threat == "ownership":
        _require_mark(fields["defence"])
    if fields.get("data_defence") and method.access == "train_control":
        raise UserError(f"data_defence = {fields['data_defence']!r}: the attacker runs the training; leave it out")


def _require_mark(defence: str) -> None:
    """UserError for a training that leaves no mark whose owner could claim the model."""
    marks = [name for name, found in discover("training").items() if found.facts.get("mark")]
    name = parse(defence).name
    if name not in marks:
        raise UserError(f"defence = '{defence}' is no mark of ownership{nearest(name, marks)}")


def with_timeout(certifier: str, seconds: float) -> str:
    """The certifier's call string with a timeout of so many seconds an image. UserError where it has none."""
    call = parse(certifier)
    found = entry("certifier", call.name)
    if "timeout" not in found.parameters:
        have = [name for name, other in discover("certifier").items() if "timeout" in other.parameters]
        known = ", ".join(have) or "none"
        raise UserError(f"--timeout {seconds:g}: certifier '{call.name}' has no timeout; those that have: {known}")
    given = list(found.parameters).index("timeout") < len(call.args)
    if given or any(name == "timeout" for name, _ in call.kwargs):
        raise UserError(f"--timeout {seconds:g}: {certifier} says its own timeout")
    return canonical("certifier", Call(call.name, call.args, (*call.kwargs, ("timeout", seconds))))


def _method(fields: dict[str, Any]) -> str:
    """Which of attack and certifier the cell has. UserError where it has both."""
    given = [name for name in METHODS if fields.get(name, "") != ""]
    if len(given) == 2:
        attack, certifier = (fields[name] for name in METHODS)
        raise UserError(f"attack = {attack!r} and certifier = {certifier!r}: a cell has one of them")
    return given[0] if given else next((name for name in METHODS if name in fields), "attack")


def _threat(wanted: str | None, method: str, text: str, made: Any, budget: str) -> str:
    """The threat that attack or certifier and budget belong to. UserError where they do not go together."""
    name, of_budget = parse(text).name, entry("budget", parse(budget).name)
    threat = "certification" if method == "certifier" else made.facts["threat"]
    if wanted not in (None, threat):
        raise UserError(f"threat = '{wanted}': {method} '{name}' belongs to '{threat}'")
    known = made.budgets
    if known is None:
        every = discover("budget").values()
        of = "evasion" if method == "certifier" else threat
        known = tuple(budget.name for budget in every if budget.facts.get("threat", "evasion") == of)
    if of_budget.name not in known:
        raise UserError(f"{method} '{name}' takes no budget '{of_budget.name}'{nearest(of_budget.name, known)}")
    return threat


def kind_of_model(text: str) -> str | None:
    """ "model" for an architecture, "pretrained" for checkpoint(...), None for a name in the zoo.

    Raises UserError for a name that is none of them.
    """
    name = parse(text).name
    if zoo.is_shipped(text):
        return None
    kinds = {kind: discover(kind) for kind in ("pretrained", "model")}
    for kind, entries in kinds.items():
        if name in entries:
            return kind
    if (board := robustbench.board_of(name)) is not None:
        dataset, threat = board.split("/")
        call = f'robustbench("{name}", dataset="{dataset}", threat="{threat}")'
        raise UserError(f"'{name}' is a model of RobustBench's zoo; write {call}")
    everything = [*kinds["model"], *kinds["pretrained"], *zoo.names()]
    raise UserError(f"no model '{name}'{nearest(name, everything)}")


def canonical_model(text: str) -> str:
    kind = kind_of_model(text)
    if kind is None:
        zoo.require(text)
        return text
    written = canonical(kind, text)
    if kind == "pretrained":
        build(kind, text)  # refuses what must not stand in a record, such as a key
    return written


def _check_numbers(fields: dict[str, Any]) -> None:
    threats = discover("threat")
    if fields.get("threat") not in (None, *threats):
        raise UserError(f"no threat '{fields['threat']}'{nearest(str(fields['threat']), threats)}")
    if fields.get("split", "test") not in ("train", "test"):
        raise UserError(f"split = {fields['split']!r} must be train or test")
    if fields.get("examples") is not None:
        _require_whole("examples", fields["examples"], 1)
    require_seed(fields.get("seed", 0))


def require_seed(seed: int) -> None:
    """UserError for a seed that is no whole number from 0 to 2**32 - 1."""
    _require_whole("seed", seed, 0)
    if seed >= SEEDS:
        raise UserError(f"seed = {seed} is too large; at most {SEEDS - 1}")


def _require_whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name} = {value!r} must be a whole number of at least {least}")
