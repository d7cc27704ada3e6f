"""Marks of ownership: laws of all of them on small images, and what each reads where the answer is known."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.defences.training.marks import uchida
from robustbench_jax.defences.training.marks.dataset_inference import walked
from robustbench_jax.defences.training.marks.entangled import soft_nearest_neighbours
from robustbench_jax.models import build_model
from robustbench_jax.ops.judge import classify
from robustbench_jax.ownership import Owner, Service, Suspect, rank_p_value, statistic
from robustbench_jax.registry import build, discover
from robustbench_jax.threats.ownership import is_verified
from robustbench_jax.training import fit
from robustbench_jax.types import Classifier, Dataset, UserError

SHAPE, CLASSES, KEY = (8, 8, 1), 3, jax.random.key(0)
MARKS = sorted(name for name, found in discover("training").items() if found.facts.get("mark"))
SMALL = {  # calls that suit images of 8 x 8
    "dawn": "dawn(rate=0.2)",
    "dataset_inference": "dataset_inference(images=100)",
    "entangled": "entangled(images=30, count=20)",
    "ip_guard": "ip_guard(points=60, steps=100)",
    "noise_mark": "noise_mark(target=2)",
    "radioactive": "radioactive(share=1.0, levels=25)",
    "trigger_set": "trigger_set(images=30)",
    "uchida": "uchida(bits=32, strength=0.1)",
}
NULLS = 19


def clouds(count: int, seed: int) -> Dataset:
    """A bar at a place of its own for each class, in noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count).astype(np.int32)
    x = rng.integers(0, 120, (count, *SHAPE))
    x[np.arange(count), 2 * y + 1] += 70
    return Dataset(x.astype(np.uint8), y, tuple("abc"), "bars")


@lru_cache
def sets() -> tuple[Dataset, ...]:
    """The owner's, those that nobody trains on, and the others'."""
    return clouds(240, 1), clouds(200, 2), clouds(240, 3)


def made(name: str, secret: int = 0):
    return build("training", SMALL.get(name, name)).replace(secret=secret)


@lru_cache
def trained(name: str, seed: int = 0, secret: int = 0) -> Classifier:
    """By a mark on the owner's images, or by "standard" on a draw from the others'."""
    own, _, others = sets()
    defence = build("training", "standard") if name == "standard" else made(name, secret)
    rows = np.random.default_rng(seed).permutation(len(others))[:200]
    data = others.rows(np.sort(rows)) if name == "standard" else own
    begun = jax.random.key(
        100 + seed if name == "standard" else 1
    )  # from the same weights, models agree on fingerprints
    model = build_model("mlp([48])", SHAPE, CLASSES, begun)
    recipe = build("recipe", "adamw(epochs=60, batch_size=40, learning_rate=0.003)")
    return fit(jax.random.key(seed), model, data, recipe, defence=defence)


@lru_cache
def answered(name: str) -> tuple:
    """(the owner with her service's log, a suspect that is hers): a copy made by asking for DAWN, else the model."""
    own, held, others = sets()
    model, mark = trained(name), made(name)
    service = Service(model, mark)
    if name != "dawn":
        return Owner(model, own, held), model
    said = service.ask(others.x).argmax(-1).astype(np.int32)
    copy = fit(
        jax.random.key(9), build_model("mlp([256])", SHAPE, CLASSES, jax.random.key(9)),
        Dataset(others.x, said, others.classes, "asked"),
        build("recipe", "adamw(epochs=150, batch_size=40, learning_rate=0.003)"), defence=build("training", "standard"),
    )  # fmt: skip
    return Owner(model, own, held, tuple(service.asked)), copy


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MARKS if name != "dataset_inference"])
def test_its_owner_is_verified_on_her_own_model_and_on_nobody_elses(name):
    mark, (owner, suspect) = made(name), answered(name)
    claim = mark.claim(owner)

    def evidence(model):
        return mark.evidence(claim, Suspect(model, mark.access))

    null = np.stack([evidence(trained("standard", i)) for i in range(1, NULLS + 1)])
    assert is_verified(evidence(suspect), null) and not is_verified(evidence(trained("standard", 0)), null)


def by_heart(params, x):
    """The label of the nearest image that was learnt by heart."""
    away = jnp.sum((params["x"] - x) ** 2, (1, 2, 3))
    return jax.nn.one_hot(params["y"][jnp.argmin(away)], CLASSES)


def test_a_model_that_learnt_its_images_by_heart_is_told_by_its_distances_and_one_that_learnt_others_is_not():
    """Labels are drawn by chance, so that nothing is known but what was learnt."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (640, *SHAPE), np.uint8), rng.integers(0, CLASSES, 640).astype(np.int32)
    own, held, *others = (Dataset(x[at], y[at], tuple("abc"), "chance") for at in np.split(np.arange(640), 16))
    models = [
        Classifier(by_heart, {"x": jnp.asarray(data.x / np.float32(255)), "y": jnp.asarray(data.y)})
        for data in (own, *others)
    ]
    mark = build("training", "dataset_inference(images=20, directions=1, steps=6)")
    claim = mark.claim(Owner(models[0], own, held))
    his, null = (
        [mark.evidence(claim, Suspect(model, "labels")) for model in part] for part in (models[:1], models[1:])
    )
    others_say = np.array([statistic(it) for it in null])
    assert len(others_say) == 14 and statistic(his[0]) > 0.5
    assert rank_p_value(statistic(his[0]), others_say) == 1 / (1 + len(others_say))
    assert np.abs(others_say).max() < 0.35


@pytest.mark.parametrize("name", MARKS)
def test_marking_keeps_accuracy_within_five_points(name):
    _, held, _ = sets()
    marked, plain = (np.mean(classify(trained(it), held.x) == held.y) for it in (name, "standard"))
    assert plain > 0.9 and marked > plain - 0.05


@pytest.mark.parametrize("name", MARKS)
def test_the_secret_decides_the_claim(name):
    owner, _ = answered(name)
    first, again, other = (jax.tree.leaves(made(name, secret).claim(owner)) for secret in (0, 0, 1))
    arrays = [[leaf for leaf in leaves if isinstance(leaf, np.ndarray)] for leaves in (first, again, other)]
    assert arrays[0] and all(np.array_equal(a, b) for a, b in zip(arrays[0], arrays[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(arrays[0], arrays[2], strict=True))


@pytest.mark.parametrize("name", MARKS)
def test_a_claim_asks_only_what_its_access_allows(name):
    """Labels alone, where a mark says so: to see the scores as well makes no difference."""
    owner, suspect = answered(name)
    mark = made(name)
    claim = mark.claim(owner)
    if mark.access == "weights":
        with pytest.raises(PermissionError):
            mark.evidence(claim, Suspect(suspect, "scores"))
    elif mark.access == "labels":
        first, again = (mark.evidence(claim, Suspect(suspect, access)) for access in ("labels", "scores"))
        np.testing.assert_array_equal(first, again)
    else:
        assert mark.access == "scores" and mark.evidence(claim, Suspect(suspect, "scores")).size


def test_planted_bits_are_read_and_those_of_another_secret_are_not():
    mark = build("training", "uchida(bits=64)")
    params = {"hidden/0/kernel": jnp.zeros((200, 10)), "head/kernel": jnp.zeros((10, 3))}
    message = mark.message(params)
    assert message.layer == "hidden/0/kernel" and message.matrix.shape == (64, 200)
    signs = np.where(message.bits, 1.0, -1.0)
    planted = np.linalg.pinv(message.matrix) @ signs
    params["hidden/0/kernel"] = jnp.asarray(np.repeat(planted[:, None], 10, 1), jnp.float32)
    model = Classifier(None, params)
    assert mark.evidence(message, Suspect(model, "weights")).all()
    right = [np.mean(mark.replace(secret=s).evidence(mark.replace(secret=s).message(params), Suspect(model, "weights")))
             for s in range(1, 41)]  # fmt: skip
    assert np.mean(right) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(64 * 40))


def test_the_largest_average_carries_the_message():
    model = build_model("cnn(convolutions=[[4, 3, 1], [8, 4, 2]], dense=[16])", SHAPE, CLASSES, KEY)
    assert uchida.carrier(model.params) == "dense/0/kernel"
    assert uchida.carrier(build_model("mlp([])", SHAPE, CLASSES, KEY).params) == "head/kernel"
    with pytest.raises(UserError, match="no weights by the name of kernel"):
        uchida.carrier({"w": jnp.zeros(3)})
    with pytest.raises(UserError, match="no weights 'dense/0/kernel' of the owner's shape"):
        uchida.read(build("training", "uchida").message(model.params), {})


def test_the_soft_nearest_neighbour_loss_is_that_of_its_definition_and_small_where_groups_are_apart():
    rng = np.random.default_rng(0)
    features, groups = rng.normal(size=(6, 4)), np.arange(6) < 3
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = 1 - units @ units.T
    temperature = distance.sum() / 30
    near = np.exp(-distance / temperature)
    each = [
        -np.log(sum(near[i, j] for j in range(6) if j != i and groups[j] == groups[i]) / (near[i].sum() - 1))
        for i in range(6)
    ]
    found = float(soft_nearest_neighbours(jnp.asarray(features), jnp.asarray(groups)))
    assert found == pytest.approx(np.mean(each), rel=1e-4)
    assert float(soft_nearest_neighbours(jnp.asarray(10 * features), jnp.asarray(groups))) == pytest.approx(found)
    apart = features + 10 * np.where(groups[:, None], 1, -1)
    assert float(soft_nearest_neighbours(jnp.asarray(apart), jnp.asarray(groups))) < found


def test_batches_of_the_mark_take_their_turn_once_the_model_was_trained_alone():
    """Weights that make the marks' loss 0 and the data's 1 tell which of them a step takes."""
    own, *_ = sets()
    training = made("entangled").embedding(None, own)

    def turn(key, progress):
        class Told(type(training)):
            def entangle(self, key, model):
                return jnp.zeros(())

            def loss(self, logits, y):
                return jnp.ones(())

        told = Told(**vars(training))
        return float(told.objective(key, None, None, None, None, None, progress))

    keys = jax.random.split(KEY, 200)
    assert all(turn(key, 0.49) == 1 for key in keys[:20])
    assert np.mean([turn(key, 0.51) for key in keys]) == pytest.approx(2 / 3, abs=0.11)


def test_entangled_triggers_of_a_class_are_its_images_with_a_white_square():
    own, *_ = sets()
    x, y = build("training", "entangled(source=2, target=1, size=3, images=10)").triggers(own)
    theirs = own.x[own.y == 2]
    assert len(x) == 10 and (y == 1).all()
    for image in x:
        changed = min((image != it).any(-1).sum() for it in theirs)
        assert 0 < changed <= 9
    with pytest.raises(UserError, match="source and target are both 1"):
        build("training", "entangled(source=1, target=1)").triggers(own)


def bright(params, x):
    """Class 1 where the mean is above a half."""
    return jnp.array([0.5 - x.mean(), x.mean() - 0.5])


def test_a_walk_says_through_how_many_steps_a_label_is_kept():
    """One step moves each pixel, and so the mean, by 0.03: from 0.43 the third is past a half, from 0.45 the second."""
    x = np.array([round(0.43 * 255), round(0.45 * 255), 0], np.uint8)[:, None, None, None] * np.ones(
        (1, *SHAPE), np.uint8
    )
    data = Dataset(x, np.zeros(3, np.int32), ("dark", "bright"), "grey")
    up, down = np.ones((1, *SHAPE), np.float32), -np.ones((1, *SHAPE), np.float32)
    kept = walked(Suspect(Classifier(bright, ()), "labels"), data, np.concatenate([up, down]), 5)
    np.testing.assert_array_equal(kept, [[1, 1, 1, 0.5, 0.5], [1, 1, 0.5, 0.5, 0.5], [1, 1, 1, 1, 1]])
    data = Dataset(x, np.ones(3, np.int32), ("dark", "bright"), "grey")
    assert not walked(Suspect(Classifier(bright, ()), "labels"), data, np.concatenate([up, down, up]), 5).any()


def test_a_fingerprint_lies_where_another_class_has_just_won():
    owner, _ = answered("ip_guard")
    own, _, _ = sets()
    mark = made("ip_guard")
    x, y = mark.fingerprint(owner.model, own.rows(np.arange(60)))
    logits = np.sort(np.asarray(jax.vmap(owner.model)(x / np.float32(255))), -1)
    before = classify(owner.model, own.x[:60])
    assert np.mean(y != before) > 0.9
    assert np.median(logits[:, -1] - logits[:, -2]) < 3 * mark.margin


def test_radioactive_images_are_moved_by_a_pattern_of_their_class_and_no_further():
    mark, (own, *_) = build("training", "radioactive(share=0.25, levels=7)"), sets()
    moved = mark.marked(own).x.astype(int) - own.x
    touched = np.abs(moved).max((1, 2, 3)) > 0
    assert touched.sum() == 60 and np.abs(moved).max() == 7
    patterns = mark.patterns(CLASSES, SHAPE)
    free = (own.x >= 7) & (own.x <= 248) & touched[:, None, None, None]
    np.testing.assert_array_equal(moved[free], patterns[own.y][free])


@pytest.mark.parametrize("name", ["trigger_set", "content_mark", "noise_mark", "unrelated_mark", "entangled"])
def test_triggers_are_wrong_images_or_wrong_labels(name):
    own, *_ = sets()
    x, y = made(name).triggers(own)
    assert x.dtype == np.uint8 and x.shape[1:] == SHAPE and len(x) == len(y) > 0
    known = {image.tobytes() for image in own.x}
    assert not any(image.tobytes() in known for image in x)


@pytest.mark.parametrize("name", ["trigger_set", "uchida", "ip_guard"])
def test_a_forged_claim_is_met_by_a_model_that_was_never_marked_for_it(name):
    _, _, others = sets()
    model, mark = trained("standard", 0), made(name)
    claim = mark.forged(KEY, model, others)
    assert statistic(mark.evidence(claim, Suspect(model, mark.access))) > 0.85


def test_what_nobody_can_forge_says_so():
    with pytest.raises(UserError, match="'dawn': nobody has shown how to forge a claim to it"):
        build("training", "dawn").forged(KEY, trained("standard", 0), sets()[2])


@pytest.mark.parametrize(
    "text, message",
    [
        ("trigger_set(images=0)", "trigger_set: images = 0 must be greater than 0"),
        ("dawn(rate=1.0)", "dawn: rate = 1.0 must be above 0 and below 1"),
        ("radioactive(share=0)", "radioactive: share = 0.0 must be above 0 and at most 1"),
        ("uchida(bits=0)", "uchida: bits = 0 must be greater than 0"),
        ("uchida(secret=3)", "training 'uchida' has no argument 'secret'"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("training", text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("content_mark(source=1, target=1)", "source and target are both 1"),
        ("unrelated_mark(target=7)", "target = 7: the data has classes 0 to 2"),
    ],
)
def test_classes_that_the_data_do_not_have_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("training", text).triggers(sets()[0])
