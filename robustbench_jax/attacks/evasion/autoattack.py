"""autoattack: the cascade that RobustBench ranks by.

Reference: Croce & Hein, ICML 2020, arXiv:2003.01690; in L1 Croce & Hein, ICML 2021, arXiv:2103.01208. Settings are
those of the authors' implementation: standard (APGD-CE, targeted APGD, targeted FAB, Square), plus and rand.
Departs from it: "fast" and certify_first are ours; see apgd, apgd_l1, fab and square; an example leaves a stage with
its first success.
"""

from typing import Any

from robustbench_jax.attacks.evasion.apgd import APGD
from robustbench_jax.attacks.evasion.apgd_l1 import APGDL1
from robustbench_jax.attacks.evasion.fab import FAB, FABTargeted
from robustbench_jax.attacks.evasion.square import Square
from robustbench_jax.registry import build, nearest, register
from robustbench_jax.types import EvasionAttack, UserError, record, static

VERSIONS = ("standard", "plus", "rand", "fast")

BUDGETS = ("linf", "l2", "l1")


@register(
    "attack",
    "autoattack",
    threat="evasion",
    access="gradients",
    paper="croce2020",
    parts={"certify_first": "certifier"},
    late=("certify_first",),
)
@record
class AutoAttack(EvasionAttack):
    """version: "standard"; "plus", with restarts, APGD-DLR and FAB towards all classes; "rand", for randomised models,
    whose gradients are means over 20 draws; or "fast": FAB and Square only probe what APGD leaves, and run in full
    where a probe breaks an image, as happens where gradients are masked.
    certify_first: a certifier of the model itself; images that it proves robust are not attacked.
    """

    version: str = "standard"
    certify_first: Any = static(default=None)
    composite = True

    def __post_init__(self):
        if self.version not in VERSIONS:
            raise UserError(f"autoattack: version = {self.version!r}{nearest(self.version, VERSIONS)}")
        first = self.certify_first
        if first is not None and (first.own_prediction or first.failure):
            name = first.registered[1]
            raise UserError(
                f"autoattack: certify_first = {name}: it proves nothing of the model itself; write e.g. crown"
            )

    @property
    def budgets(self) -> tuple[str, ...]:
        """Those of its attacks, and of the certifier where there is one."""
        known = None if self.certify_first is None else self.certify_first.budgets
        return tuple(name for name in BUDGETS if known is None or name in known)

    def stages(self, budget: Any) -> tuple[EvasionAttack, ...]:
        sparse = budget.p == 1
        apgd = APGDL1 if sparse else APGD
        if self.version == "rand":
            name = apgd.registered[1]
            return tuple(build("attack", f"eot({name}(loss='{loss}'), samples=20)") for loss in ("ce", "dlr"))
        many = 5 if self.version == "plus" or sparse else 1
        targets = 5 if self.version in ("standard", "fast") and sparse else 9
        first, aimed = apgd("ce", restarts=many), apgd("dlr_targeted", targets=targets)
        fab, square = FABTargeted(first=True), Square()
        if self.version == "fast":
            return first, aimed, FABTargeted(first=True, steps=20, targets=3), Square(queries=500)
        if self.version == "standard":
            return first, aimed, fab, square
        return first, apgd("dlr", restarts=5), FAB(restarts=5, first=True), square, aimed, fab

    def follow(self, budget: Any, done: tuple[Any, ...]) -> tuple[EvasionAttack, ...]:
        """The whole FAB and Square of the fast version, where its last two stages found something."""
        probed = self.version == "fast" and len(done) == 4
        doubtful = probed and any(stage.broken for stage in done[2:])
        return (FABTargeted(first=True), Square()) if doubtful else ()
