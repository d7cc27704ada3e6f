"""Mitigations: what was measured to help against each threat, with its figures and where they stand.

Only what a checked-in leaderboard shows is here; figures are those of its Fashion-MNIST sweep, not of the audited
model, and say what the mitigation cost there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mitigation:
    """what: in words; call: how a cell says it; shown: figures; source: the leaderboard that they are from."""

    what: str
    call: str
    shown: str
    source: str


EVASION = (
    Mitigation(
        "adversarial training",
        "defence = adversarial_training(pgd(steps=7), linf(0.1))",
        "66.7% right under AutoAttack at Linf 0.1, and 79.7% of clean images; without it at most 9% at Linf 0.05",
        "results/defences_fashion_mnist",
    ),
    Mitigation(
        "robust distillation from a robust teacher",
        "defence = ard(teacher)",
        "68.0% right under AutoAttack at Linf 0.1, and 85.3% of clean images",
        "results/defences_fashion_mnist",
    ),
    Mitigation(
        "not: preprocessing alone",
        "model_defence = jpeg",
        "91.5% under an attack that does not know of it, 10.0% under one that does, at Linf 0.05",
        "results/defences_fashion_mnist",
    ),
)
PROOF = (
    Mitigation(
        "training on bounds",
        "defence = mtl_ibp",
        "50.5% proved at Linf 0.1, with 76.5% right on clean images; of an adversarially trained model 0.0%",
        "results/certified_zoo",
    ),
)
BACKDOOR = (
    Mitigation(
        "unlearning of the inverted trigger, with 5% trusted images",
        "model_defence = neural_cleanse_unlearning(neural_cleanse(epochs=10))",
        "success of badnets to 5.8%, of blended to 7.7%, for 2 points of accuracy",
        "results/backdoor_repair",
    ),
    Mitigation(
        "implicit adversarial unlearning",
        "model_defence = i_bau",
        "success of badnets to 34.0%, of blended to 0.1%, for 20 to 25 points of accuracy",
        "results/backdoor_repair",
    ),
    Mitigation(
        "activation clustering of the training images",
        "data_defence = activation_clustering",
        "finds 99.8% of badnets' poisons and removes 1.7% of clean images; finds none of blended's",
        "results/poison_filtering",
    ),
)
POISONING = (
    Mitigation(
        "symmetric cross-entropy against wrong labels",
        "defence = symmetric_cross_entropy",
        "85.5% right with 40% of the labels flipped, where plain training has 84.4%",
        "results/poison_availability",
    ),
    Mitigation(
        "deep k-nearest neighbours over the training images",
        "data_defence = deep_knn",
        "success of adaptive_blend from 95.4% to 3.6%; useless against badnets",
        "results/poison_filtering",
    ),
)
CLIENTS = (
    Mitigation(
        "nearest-neighbour mixing before a robust rule",
        "defence = federated(nnm(trimmed_mean))",
        "81.4% at worst with 4 liars of 20, where the mean falls to 9.5%; with unlike clients 75.5% at worst",
        "results/byzantine",
    ),
)
PRIVACY = (
    Mitigation(
        "differentially private training",
        "defence = dp_sgd(epsilon=8.0)",
        "AUC of RMIA from 67.4 to 54.3 (51.8 at epsilon 2), for 4 points of accuracy (9.5 at epsilon 2)",
        "results/membership_fashion_mnist",
    ),
)
GRADIENTS = (
    Mitigation(
        "larger batches behind one shared gradient",
        "budget = gradients(8)",
        "SSIM of inverting_gradients from 0.99 to 0.58 with 8 images instead of 1",
        "results/inversion_fashion_mnist",
    ),
    Mitigation(
        "sparse gradients",
        "budget = gradients(1, keep=0.01)",
        "SSIM of inverting_gradients from 0.99 to 0.54; the analytic attack still has 0.75",
        "results/inversion_fashion_mnist",
    ),
)
EXTRACTION = (
    Mitigation(
        "a monitor of what an account covers",
        "monitor = coverage",
        "every thief who asks about natural images is noticed, the median at query 65; alarms on 4.0% of honest days",
        "results/monitoring_fashion_mnist",
    ),
    Mitigation(
        "answers that mislead whoever trains on them",
        "model_defence = mad(1.0)",
        "agreement after 3,000 queries from 89.3% to 61.4%, at the same accuracy; 88.2% for who uses the labels alone",
        "results/extraction_fashion_mnist",
    ),
    Mitigation(
        "not: answers that say less",
        "model_defence = label_only",
        "agreement 88.4% instead of 89.3%; rounded or top-1 probabilities 88.9% to 89.0%",
        "results/extraction_fashion_mnist",
    ),
)
KNOWN = {
    "evasion": EVASION,
    "certification": PROOF,
    "obfuscation": EVASION,
    "backdoor": BACKDOOR,
    "poisoning": POISONING,
    "byzantine": CLIENTS,
    "membership": PRIVACY,
    "audit": PRIVACY,
    "repeated_audit": PRIVACY,
    "white_box_audit": PRIVACY,
    "extraction": EXTRACTION,
    "gradient_inversion": GRADIENTS,
}


def advice(threat: str) -> tuple[Mitigation, ...]:
    """What was measured to help; nothing where nothing was."""
    return KNOWN.get(threat, ())
