"""The checklist of a secure development lifecycle: what a team that ships a model should be able to point at.

Each item is evidence that the audit has, or has not, in its hands: records, and how model, data and server are named in
it. The phases are the four groups of practices of NIST SP 800-218 (the secure software development framework).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from robustbench_jax.bench.findings import ERROR, Finding
from robustbench_jax.bench.security_policy import SecurityPolicy
from robustbench_jax.registry import parse

THREATS = {  # of an item, which threats' cells are evidence for it
    "robust to changed inputs, attacked": ("evasion", "obfuscation", "corruption"),
    "robust to changed inputs, proved": ("certification",),
    "training data: poisoning and backdoors": ("poisoning", "backdoor", "byzantine"),
    "training data cannot be read off the model": ("membership", "attribute", "model_inversion", "gradient_inversion"),
    "a promise of privacy is audited": ("audit", "repeated_audit", "white_box_audit"),
    "copying by queries": ("extraction",),
    "ownership can be shown": ("ownership",),
    "attacks by queries are noticed": ("monitoring",),
}


@dataclass(frozen=True)
class Item:
    """evidence: ids of records, or the call string that shows it; empty where there is none."""

    phase: str
    what: str
    evidence: tuple[str, ...]


def checklist(policy: SecurityPolicy, model: str, dataset: str, found: Iterable[Finding]) -> list[Item]:
    """In the order of the phases."""
    found = [finding for finding in found if finding.verdict != ERROR]
    calls, data = _calls(model), _calls(dataset)
    items = [
        Item("prepare", "somebody is told of findings", policy.contacts),
        Item("protect", "training data have a signed manifest", tuple(it for it in data if it.startswith("verified("))),
        Item("protect", "the model is encrypted at rest", tuple(it for it in calls if it.startswith("sealed("))),
        Item("protect", "the model is signed", tuple(it for it in calls if it.startswith("signed("))),
        Item("protect", "the model is served behind keys, limits and a log", (policy.serving,) * bool(policy.serving)),
    ]
    for what, threats in THREATS.items():
        evidence = tuple(dict.fromkeys(it.check.cell.id for it in found if it.check.cell.threat in threats))
        items.append(Item("respond" if "noticed" in what else "produce", what, evidence))
    return items


def _calls(text: str) -> list[str]:
    """A call string and the calls inside it, as they are written."""
    try:
        call = parse(text)
    except ValueError:
        return [text]
    inner = [value for value in (*call.args, *(value for _, value in call.kwargs)) if hasattr(value, "kwargs")]
    own = f"{call.name}(...)" if call.args or call.kwargs else call.name
    return [own, *(it for part in inner for it in _calls(part))]
