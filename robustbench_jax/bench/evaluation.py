"""An evaluation of one model: the static attack, the adaptive one, and the worst case of both.

The static attack does not know the defence. Where a model may give no answer that is one on the undefended model inside
it; elsewhere it is the attack itself, which sees the defended model and nothing of how it is made.
"""

import json
from dataclasses import dataclass

from robustbench_jax.bench.groups import array
from robustbench_jax.bench.records import MetricValue, Record
from robustbench_jax.metrics import proportion


@dataclass(frozen=True)
class Evaluation:
    """Records of the static and the adaptive attack, and of the obfuscation report where it was asked for.

    worst: robust accuracy against both attacks, image by image, with its exact 95% interval.
    """

    static: Record
    adaptive: Record
    checks: Record | None
    worst: MetricValue

    @property
    def records(self) -> list[Record]:
        return [self.static, self.adaptive, *([self.checks] if self.checks else [])]

    def to_json(self) -> str:
        """One JSON object on one line: records, and worst_case."""
        written = [json.loads(record.to_json()) for record in self.records]
        return json.dumps({"records": written, "worst_case": self.worst.model_dump()}, allow_nan=False)


def attacks(attack: str, rejects: bool, checks: bool = False) -> list[str]:
    """Call strings of the attacks of an evaluation. rejects: whether the model may give no answer."""
    static = f"transfer({attack}, twin=True)" if rejects else attack
    return [static, f"adaptive({attack})", *([f"checklist({attack})"] if checks else [])]


def evaluation(records: list[Record]) -> Evaluation:
    """Of the records of these attacks, in their order."""
    static, adaptive, *checks = records
    robust = array(static, "robust") & array(adaptive, "robust")
    worst = MetricValue(**vars(proportion("robust_accuracy", robust)))
    return Evaluation(static, adaptive, checks[0] if checks else None, worst)
