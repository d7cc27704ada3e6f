"""The service: what becomes of a request for predictions, without the HTTP around it.

    admitted (key, scope, measures, rate) -> checked -> budget -> model -> monitors -> measures -> log -> answer

An answer is given once the log holds it. Everything between the model and the log happens in the order of `Together`;
accounts, limits and measures change in the event loop alone.
Shapes: N images, D input shape, C classes.
"""

import asyncio
import dataclasses
import itertools
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from robustbench_jax.ops.judge import predict
from robustbench_jax.ops.runtime import NARROWEST, Runtime, on_cpu, power_of_two
from robustbench_jax.serving.accounts import Account, Accounts
from robustbench_jax.serving.audit_log import AuditLog, kept
from robustbench_jax.serving.gauges import Gauges
from robustbench_jax.serving.incident import ADMIN, ALERT, REQUEST, VERDICT
from robustbench_jax.serving.limits import Limits
from robustbench_jax.serving.paging import page
from robustbench_jax.serving.past import levels, past
from robustbench_jax.serving.policy import Policy
from robustbench_jax.serving.problems import Problem
from robustbench_jax.serving.redaction import digest_key
from robustbench_jax.serving.standing import MEASURES, wrong_labels
from robustbench_jax.serving.together import Together
from robustbench_jax.traffic import Request, Verdict, Watch
from robustbench_jax.types import Classifier, UserError

MONITOR = "(monitor)"  # who acts where a monitor does; no account has such a name
FEW = 16  # images up to which one device is as fast as several, on CPU
ACTS = ("block", "throttle", "poison", "unblock", "disable")
Entry = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Served:
    """What is served: its name, what a request must look like, how many classes; identity: of weights and program."""

    model: Classifier
    name: str
    shape: tuple[int, ...]
    classes: int
    identity: str


class Service:
    """poisoned: what answers accounts that are poisoned, where that is a model. watch: the monitors, by call string.

    Opens the log, and takes from it what was spent and decided before. Raises UserError as AuditLog does.
    """

    def __init__(self, policy: Policy, served: Served, watch: Watch | None = None, poisoned: Classifier | None = None):
        self.policy, self.served, self.watch = policy, served, watch
        self.accounts = Accounts.load(policy.accounts)
        log, batching = policy.log, policy.batching
        self._digest_key = digest_key() if log.inputs == "digest" else b""
        before = past(log.path, watch.see if watch else None)
        options = ("signing_key", "sign_every", "durable", "rotate_bytes", "rotate_daily")
        self.log = AuditLog(log.path, **{name: getattr(log, name) for name in options})
        self.limits, self.standing = Limits(before.spent), before.standing
        self._ids, self._number = itertools.count(before.requests), before.images
        self._latest, self._secret = time.time(), os.urandom(32)
        self._paged: set[tuple[str, str]] = set()
        self._pages: set[asyncio.Task] = set()
        self.failure = "it is compiling"
        size = {"most": batching.width, "wait": batching.wait_ms / 1000} if batching.together else {"most": 0}
        models = {"model": served.model} | ({"poison": poisoned} if poisoned else {})
        runtime = Runtime(width=batching.width)
        self.models = {
            name: Together(name, answers(model, runtime, self._batch), room=batching.room, **size)
            for name, model in models.items()
        }
        self.monitors, self.journal = Together("monitors", self._see), Together("journal", self._keep)
        self.gauges = Gauges(lambda: sum(model.waiting for model in self.models.values()))

    def start(self) -> None:
        for each in (*self.models.values(), self.monitors, self.journal):
            each.start()

    async def stop(self) -> None:
        """What was asked is answered, what was paged is logged, the log is closed."""
        for each in (*self.models.values(), self.monitors):
            await each.stop()
        await asyncio.gather(*self._pages)
        await self.journal.stop()
        self.log.close()

    def warm(self) -> None:
        """Compiles every width that a call can have. Blocks."""
        width, most = NARROWEST, power_of_two(self.policy.batching.width)
        widths = {min(NARROWEST, most)} | {2**p for p in range(width.bit_length() - 1, most.bit_length())}
        for model in self.models.values():
            for width in sorted(widths):
                model.work([np.zeros((width, *self.served.shape), np.float32)])
        self.failure = ""

    def admit(self, account: Account | None, scope: str) -> Account:
        """The account, where its key counts, it has the scope, nothing is in force against it and it is not too fast.
        Problem 401, 403 or 429 otherwise.
        """
        if account is None:
            raise Problem(401, "key", "no known key: send the header Authorization: Bearer KEY")
        if not account.active():
            raise Problem(401, "key", f"the key of {account.name} is {'disabled' if account.disabled else 'expired'}")
        if not account.may(scope):
            raise Problem(403, "scope", f"{account.name} may not {scope}: its scopes are {', '.join(account.scopes)}")
        measures = self.standing[account.name]
        if "block" in measures and scope == "predict":
            raise _blocked()
        if scope == "predict":
            self.limits.request(account, self.policy.responses.throttle if "throttle" in measures else 1.0)
        return account

    async def predict(self, account: Account, x: np.ndarray, client: str) -> np.ndarray:
        """The answers to images x float32 [N, D]: float32 [N, C], or int32 [N] where the policy gives labels (-1 for no
        answer). Problem 429 or 503, 403 where a monitor blocks the account because of them.
        """
        if self.failure:
            raise Problem(503, "busy", f"the server is not ready: {self.failure}", retry_after=1.0)
        poison = "poison" in self.standing[account.name]
        self.limits.take(account, len(x))
        try:
            logits, shown = await self._answered(x, poison)
        except BaseException:
            self.limits.give_back(account, len(x))
            raise
        verdicts = await self.monitors.ask((account.name, x, logits)) if self.watch else []
        request = next(self._ids)
        found = self._found(account.name, request, verdicts)
        blocked = "block" in self.standing[account.name]
        said = {"verdict": "answered", "labels": self._labels(shown).tolist()} | ({"poisoned": True} if poison else {})
        entry = (REQUEST, {"account": account.name, "request": request, **self._kept(x, logits), "client": client})
        verdict = (VERDICT, {"account": account.name, "request": request, **said})
        await self.keep([entry, *found, *([] if blocked else [verdict])])
        self._call(account.name, found)
        if blocked:
            raise _blocked()
        self.gauges.answered(len(x))
        return self._given(shown)

    async def act(self, by: Account, act: str, name: str) -> None:
        """An administrative act on an account. Problem 404 for one that is not there."""
        try:
            self.accounts[name]
        except UserError as error:
            raise Problem(404, "account", str(error)) from None
        await self.keep([(ADMIN, {"account": by.name, "act": act, "on": name})])
        if act == "disable":
            await asyncio.to_thread(self.accounts.disable, name)
        self.standing.note(act, name)
        if act == "unblock":
            self._paged = {pair for pair in self._paged if pair[0] != name}

    async def keep(self, entries: list[Entry]) -> None:
        """Returns once the log holds the entries. Problem 503 where it takes none."""
        try:
            await self.journal.ask(entries)
        except UserError as error:
            self.failure = f"the log takes no entry ({error})"
            raise Problem(503, "log", "the server cannot keep its log and answers nothing until it can") from error

    async def _answered(self, x: np.ndarray, poison: bool) -> tuple[np.ndarray, np.ndarray]:
        """(what the model said, what will be answered)."""
        logits = await self.models["poison" if poison and "poison" in self.models else "model"].ask(x, len(x))
        if not np.isfinite(logits).all():
            raise Problem(500, "failure", "the model has no finite answer to these images")
        swapped = poison and "poison" not in self.models
        return logits, wrong_labels(logits, x, self._secret) if swapped else logits

    def _labels(self, logits: np.ndarray) -> np.ndarray:
        labels = logits.argmax(-1).astype(np.int32)
        return np.where(labels < self.served.classes, labels, -1).astype(np.int32)

    def _given(self, logits: np.ndarray) -> np.ndarray:
        if self.policy.answers == "labels":
            return self._labels(logits)
        if self.policy.answers == "scores":
            return logits
        raised = np.exp(logits - logits.max(-1, keepdims=True))
        return raised / raised.sum(-1, keepdims=True)

    def _kept(self, x: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
        inputs = self.policy.log.inputs
        more = {"logits": kept(logits, "full")} if inputs == "full" else {}
        return {"images": len(x), "input": kept(x, inputs, self._digest_key), **more}

    def _found(self, account: str, request: int, verdicts: list[dict[str, Verdict]]) -> list[Entry]:
        """Alerts and the measures that they lead to, which are in force from now on."""
        responses = {monitor.call: monitor.responses for monitor in self.policy.monitor}
        entries: list[Entry] = []
        for row, by_monitor in enumerate(verdicts):
            for name, verdict in by_monitor.items():
                if verdict.alarm:
                    self.gauges.alarm(name)
                    about = {"account": account, "monitor": name, "request": request, "image": row}
                    entries.append((ALERT, about | {"score": verdict.score, "evidence": verdict.evidence}))
                    entries += self._measures(account, request, name, responses[name])
        return entries

    def _measures(self, account: str, request: int, monitor: str, responses: tuple[str, ...]) -> list[Entry]:
        fresh = [it for it in responses if it in MEASURES and it not in self.standing[account]]
        for measure in fresh:
            self.standing.note(measure, account)
        why = {"monitor": monitor, "request": request}
        return [(ADMIN, {"account": MONITOR, "act": measure, "on": account, **why}) for measure in fresh]

    def _call(self, account: str, found: list[Entry]) -> None:
        """Pages whoever is to be paged, once for an account and a monitor until somebody unblocks it."""
        wanted = {monitor.call for monitor in self.policy.monitor if "page" in monitor.responses}
        for kind, alert in found:
            if kind == ALERT and alert["monitor"] in wanted and (account, alert["monitor"]) not in self._paged:
                self._paged.add((account, alert["monitor"]))
                task = asyncio.create_task(self._page(alert))
                self._pages.add(task)
                task.add_done_callback(self._pages.discard)

    async def _page(self, alert: dict[str, Any]) -> None:
        done = await asyncio.to_thread(page, self.policy.page, alert)
        await self.keep([(ADMIN, {"account": MONITOR, "act": "page", "on": alert["account"], "outcome": done})])

    def _see(self, asked: list[tuple[str, np.ndarray, np.ndarray]]) -> list[list[dict[str, Verdict]]]:
        """What the monitors say of each image; in the thread of the monitors."""
        found = []
        for account, x, logits in asked:
            self._latest = max(self._latest, time.time())
            seen = []
            for image, answer in zip(levels(x), logits, strict=True):
                seen.append(self.watch.see(Request(account, self._latest, self._number, image, answer)))
                self._number += 1
            found.append(seen)
        return found

    def _keep(self, asked: list[list[Entry]]) -> list[None]:
        """One write and one fsync for all that waits; in the thread of the journal."""
        self.log.append_all(itertools.chain.from_iterable(asked))
        return [None] * len(asked)

    def _batch(self, images: int) -> None:
        self.gauges.batch(images)


def answers(model: Classifier, runtime: Runtime, report: Callable[[int], None]) -> Callable:
    """[x [N, D], ...] -> [logits [N, C], ...], in one call: what `predict` says of all of them. A randomised model
    draws from a key that nobody has seen. A few images are not worth sharing among devices.
    """
    alone = dataclasses.replace(runtime, devices=1)

    def work(asked: list[np.ndarray]) -> list[np.ndarray]:
        count = sum(map(len, asked))
        report(count)
        key = jax.random.key(secrets.randbits(32)) if model.stochastic else None
        few = on_cpu() and count <= FEW
        logits = predict(model, np.concatenate(asked), alone if few else runtime, key)
        return np.split(logits, np.cumsum([len(x) for x in asked])[:-1])

    return work


def _blocked() -> Problem:
    return Problem(403, "blocked", "this account is blocked; ask whoever runs the server")
