"""Policies: what a served model answers, to how much, what it keeps, and what happens at an alarm. A TOML file.

    accounts = "accounts.json"                 # paths are relative to the policy
    answers = "scores"                         # "scores" (logits) | "probabilities" | "labels"
    [log]
    path = "audit.jsonl"
    [[monitor]]
    call = "blacklight"
    responses = ["log", "throttle"]

configs/policy.toml has every key, with its default. A key that is none is an error that names the nearest right one.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustbench_jax import toml_tables
from robustbench_jax.registry import build, canonical, nearest
from robustbench_jax.serving import redaction
from robustbench_jax.types import UserError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
WRONG_LABEL = "wrong_label"


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(Table):
    """Of one request; those of accounts are in their file. body: bytes; body_seconds: to send it in; images: in one
    request; connections: at once.
    """

    body: Count = 4_194_304
    body_seconds: Positive = 10.0
    images: Count = 256
    connections: Count = 1024


class Batching(Table):
    """width: images in one compiled call, rounded up to a power of two. wait_ms: how long a call waits for more of
    them. room: images that may wait for one. together: whether requests share calls.
    """

    width: Count = 64
    wait_ms: Annotated[float, Field(ge=0, le=1000)] = 2.0
    room: Count = 1024
    together: bool = True


class Log(Table):
    """path: of the audit log. inputs: "none", "digest" or "full"; signing_key: a private key of manifest --new-key;
    durable: whether an answer waits until its entries are on the disk. rotate_bytes: from which size on it goes on in
    another file; rotate_daily: whether with each day (UTC).
    """

    path: str
    inputs: Literal["none", "digest", "full"] = "none"
    signing_key: str | None = None
    sign_every: Count = 100
    durable: bool = True
    rotate_bytes: Count | None = None
    rotate_daily: bool = False


class Metrics(Table):
    """public: whether /metrics is for everybody, or for the scope "metrics"."""

    public: bool = False


class Monitor(Table):
    """call: a call string; responses: what an alarm does to the account that asked, besides being logged."""

    call: str
    responses: tuple[Literal["log", "throttle", "poison", "block", "page"], ...] = ("log",)


class Responses(Table):
    """throttle: what rate and burst are multiplied by. poison: "wrong_label", or a model defence that answers in the
    place of the usual ones.
    """

    throttle: Annotated[float, Field(gt=0, lt=1)] = 0.1
    poison: str = WRONG_LABEL


class Page(Table):
    """Who is called: command (its standard input is the alert as JSON), url (it is posted there), file (a line)."""

    command: tuple[str, ...] = ()
    url: str | None = None
    file: str | None = None
    seconds: Positive = 10.0


class Policy(Table):
    accounts: str
    answers: Literal["scores", "probabilities", "labels"] = "scores"
    limits: Limits = Limits()
    batching: Batching = Batching()
    log: Log
    metrics: Metrics = Metrics()
    monitor: tuple[Monitor, ...] = ()
    responses: Responses = Responses()
    page: Page = Page()

    def uses(self, response: str) -> bool:
        return any(response in monitor.responses for monitor in self.monitor)


def load(path: str | Path) -> Policy:
    """The policy in a file, its paths made absolute. UserError that names the file, the key and what is wrong."""
    policy = toml_tables.named(path, parsed, toml_tables.read(path))
    return _absolute(policy, Path(path).absolute().parent)


def parsed(content: dict[str, Any]) -> Policy:
    """UserError for the first thing that is wrong."""
    try:
        policy = Policy.model_validate(content)
    except ValidationError as error:
        raise UserError(_said(error.errors()[0])) from None
    for monitor in policy.monitor:
        canonical("monitor", monitor.call)
        build("monitor", monitor.call)
    if policy.responses.poison != WRONG_LABEL:
        canonical("model_defence", policy.responses.poison)
    if policy.uses("page") and not (policy.page.command or policy.page.url or policy.page.file):
        raise UserError("a monitor pages somebody: say in [page] whom: command, url or file")
    if policy.limits.images > policy.batching.room:
        raise UserError(
            f"limits.images = {policy.limits.images} is more than may wait: batching.room = {policy.batching.room}"
        )
    if policy.log.inputs == "digest":
        redaction.digest_key()
    return policy


def _said(error: dict[str, Any]) -> str:
    *inside, key = error["loc"]
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        of = f" in [{inside[0]}]" if inside else ""
        return f"no key '{key}'{of}{nearest(str(key), _table(inside).model_fields)}"
    if error["type"] == "missing":
        return f"{where} is missing"
    given = error["input"]
    if error["type"] == "literal_error":
        options = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"{where} = {given!r}{nearest(str(given), options)}"
    return f"{where} = {given!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _table(place: list[Any]) -> type[Table]:
    tables = {"monitor": Monitor}
    tables |= {name: type(field.default) for name, field in Policy.model_fields.items() if name != "monitor"}
    tables |= {"log": Log}
    return tables[place[0]] if place else Policy


def _absolute(policy: Policy, base: Path) -> Policy:
    def there(path: str | None) -> str | None:
        return None if path is None else str(base / path)

    log = policy.log.model_copy(update={"path": there(policy.log.path), "signing_key": there(policy.log.signing_key)})
    page = policy.page.model_copy(update={"file": there(policy.page.file)})
    return policy.model_copy(update={"accounts": there(policy.accounts), "log": log, "page": page})
