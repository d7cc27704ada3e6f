"""transfer(attack, ...): adversarial images made on surrogates alone; the target is asked once, by the judge.

References: Papernot et al., 2016, arXiv:1605.07277 (transfer); Liu et al., ICLR 2017, arXiv:1611.02770 and Dong et al.,
CVPR 2018, arXiv:1710.06081 (ensembles).
Shapes: N examples, D input shape, C classes, S surrogates. Written for one example.
The inner attack takes all its steps: what fools the surrogates early fools others less often than what fools them
well. One that looks for the smallest perturbation looks for that of the surrogates. Evaluations of surrogates are not
counted: forwards and gradients are the target's, and there are none.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.attacks.evasion.wrapped import Wrapped
from robustbench_jax.keys import stream
from robustbench_jax.models import build_model
from robustbench_jax.ops.gradients import FUSIONS, Ensemble
from robustbench_jax.ops.unjudged import unjudged
from robustbench_jax.registry import build, nearest, register
from robustbench_jax.stacks import fit_many
from robustbench_jax.types import Classifier, Dataset, Problem, UserError, record, require_positive, static
from robustbench_jax.types import State as BaseState


@record
class State(BaseState):
    inner: BaseState  # the inner attack's, which counts the surrogates' evaluations


@register(
    "attack",
    "transfer",
    threat="evasion",
    access="none",
    paper="papernot2016",
    parts={"attack": "attack", "sources": "pretrained", "recipe": "recipe"},
    given=("surrogates",),
    late=("twin",),
)
@record
class Transfer(Wrapped):
    """sources: trained models, e.g. [zoo("fashion_mnist/clean/standard")]. train: an architecture, e.g. "cnn", of which
    `count` models are trained at once on the pool with `recipe`; they join the sources.

    fusion: what of the surrogates is averaged: "logits", "probabilities" or "loss". twin: the undefended model inside
    the target (`Classifier.twin`; the target itself where it has no defence) joins the sources: what an attacker does
    who knows the model and not its defence.
    """

    attack: Any
    sources: tuple = static(default=())
    fusion: str = "logits"
    train: str = ""
    count: int = static(default=3)
    recipe: Any = static(default="sgd(epochs=5, learning_rate=0.05)")
    twin: bool = False
    surrogates: Any = None

    def __post_init__(self):
        super().__post_init__()
        require_positive("transfer", count=self.count)
        if self.fusion not in FUSIONS:
            raise UserError(f"transfer: fusion = {self.fusion!r}{nearest(self.fusion, FUSIONS)}")
        if not self.sources and not self.train and not self.twin and self.surrogates is None:
            raise UserError('transfer: no sources; write e.g. sources=[zoo("fashion_mnist/clean/standard")]')

    @property
    def access(self) -> str:
        return "none"

    @property
    def called(self) -> str:
        return super().called + " from the twin" * self.twin

    @property
    def prepares(self) -> bool:
        return self.surrogates is None

    @property
    def learns(self) -> bool:
        return bool(self.train) or self.attack.learns

    @property
    def queries(self) -> None:
        return None

    def prepare(self, key: jax.Array, model: Any, budget: Any, x: Any, y: Any, runtime: Any) -> "Transfer":
        """Loads and trains the surrogates; x [N, D], y [N] are what they are trained on. The key is consumed.

        Raises UserError where one does not take these images or has other classes than the target.
        """
        classes = _classes(model, x.shape[1:], "the target")
        members = tuple(source.load()[0] for source in self.sources)
        for source, member in zip(self.sources, members, strict=True):
            if _classes(member, x.shape[1:], source) != classes:
                raise UserError(f"transfer: {source} has other classes than the target, which has {classes}")
        if self.twin:
            members = (model.twin, *members)
        if self.train:
            members += self._trained(stream(key, "train"), x, y, classes)
        surrogates, attack = Ensemble(members, self.fusion), self.attack
        if attack.prepares:
            attack = attack.prepare(stream(key, "attack"), surrogates, budget, x, y, runtime)
        return self.replace(attack=attack, surrogates=surrogates)

    def _trained(self, key: jax.Array, x: np.ndarray, y: np.ndarray, classes: int) -> tuple[Classifier, ...]:
        fresh, keys = jax.random.split(stream(key, "models"), self.count), jax.random.split(key, self.count)
        models = [build_model(self.train, x.shape[1:], classes, own) for own in fresh]
        stacked = models[0].replace(params=jax.tree.map(lambda *each: jnp.stack(each), *(m.params for m in models)))
        pool = Dataset(x, y, tuple(map(str, range(classes))), "pool")
        recipe = build("recipe", self.recipe) if isinstance(self.recipe, str) else self.recipe
        fitted = fit_many(keys, stacked, pool, recipe, defence=build("training", "standard"))
        rows = [jax.tree.map(lambda leaf, i=i: leaf[i], fitted.params) for i in range(self.count)]
        return tuple(fitted.replace(params=row) for row in rows)

    def init(self, key: jax.Array, problem: Problem) -> State:
        inner = self.attack.init(key, self.seen(key, problem))
        return State.at(inner.x_adv, inner=inner).replace(t=inner.t)

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        inner = self.attack.step(key, self.seen(key, problem), state.inner)
        if self.attack.queries is not None:
            spent = inner.forwards > self.attack.queries
            over = state.inner.replace(t=jnp.asarray(self.steps, jnp.int32))
            inner = jax.tree.map(lambda a, b: jnp.where(spent, a, b), over, inner)
        return state.replace(x_adv=inner.x_adv, t=inner.t, inner=inner)

    def seen(self, key: jax.Array, problem: Problem) -> Problem:
        if self.surrogates is None:
            raise UserError("transfer: the attack has no surrogates before prepare(...)")
        seen = problem.replace(model=self.surrogates.keyed(stream(key, "surrogates")))
        return seen if self.minimal else unjudged(seen)


def _classes(model: Classifier, shape: tuple[int, ...], what: Any) -> int:
    try:
        model = model.keyed(jax.random.key(0)) if hasattr(model, "keyed") else model
        logits = jax.eval_shape(model, jax.ShapeDtypeStruct(shape, jnp.float32))
        return logits.shape[-1] - getattr(model, "rejects", False)
    except (TypeError, ValueError) as error:
        raise UserError(f"transfer: {what} does not take images of shape {list(shape)}: {error}") from error
