"""Monitors against independent computations: hashes, Shapiro-Wilk, nearest neighbours, coverage, sums of evidence."""

import hashlib

import jax
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import shapiro

from robustbench_jax.defences.monitoring.recent import Recent, distances
from robustbench_jax.models import build_model
from robustbench_jax.models.features import features_of, logits_of
from robustbench_jax.registry import build
from robustbench_jax.streams import DAY, Habits, benign, times_of_day, varied
from robustbench_jax.traffic import Request, limit, merged, replay
from robustbench_jax.types import Dataset, UserError
from tests.oracles import noise_images

KEY = jax.random.key(0)
SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def model():
    return build_model("mlp([12])", SHAPE, 5, KEY)


def asked(x, model=None, account="a", every=1.0, logits=None):
    logits = logits_of(model, x) if logits is None else logits
    return [Request(account, i * every, i, image, own) for i, (image, own) in enumerate(zip(x, logits, strict=True))]


def run(monitor, requests):
    """Scores and evidence."""
    state = monitor.init()
    return [monitor.score(state, request) for request in requests]


def test_hashes_are_those_of_a_direct_computation():
    monitor = build("monitor", "blacklight(window=6, step=40, hashes=9)").learn(KEY, None, noise_images(3, SHAPE))
    image = noise_images(1, SHAPE, seed=3).x[0]
    image[2:5] = 7  # three plain rows
    direct = set()
    for start in range(64 - 6 + 1):
        window = image.ravel()[start : start + 6]
        if len(set(window.tolist())) > 1:
            salted = [
                (int(value) + int(salt)) % 256 // 40 for value, salt in zip(window, monitor.salt[start:], strict=False)
            ]
            direct.add(hashlib.sha256(bytes(salted)).digest()[:8])
    assert monitor.fingerprint(image) == tuple(sorted(direct)[::-1][:9])


def test_a_plain_image_has_no_fingerprint_and_is_near_to_none(model):
    monitor = build("monitor", "blacklight").learn(KEY, model, noise_images(3, SHAPE))
    plain = np.stack([np.full(SHAPE, level, np.uint8) for level in (0, 9, 200)])
    assert monitor.fingerprint(plain[0]) == ()
    assert [score for score, _ in run(monitor, asked(plain, model))] == [1, 1, 1]


def test_identical_images_match_in_full_and_near_ones_become_one_family(model):
    monitor = build("monitor", "blacklight(window=6)").learn(KEY, model, noise_images(3, SHAPE))
    first, other = noise_images(2, SHAPE, seed=5).x
    near = first.copy()
    near[0, 0] ^= 1
    assert monitor.fingerprint(first) == monitor.fingerprint(first.copy())
    found = run(monitor, asked(np.stack([first, near, other, first]), model))
    assert [score for score, _ in found] == [1, 2, 1, 2]
    assert found[1][1]["nearest_request"] == 0 and found[1][1]["matches"] > 40
    assert found[3][1]["same"] and found[3][1]["nearest_request"] == 0


def test_a_family_is_shared_by_accounts_and_names_them(model):
    monitor = build("monitor", "blacklight(window=6, threshold=2)").learn(KEY, model, noise_images(3, SHAPE))
    x = np.repeat(noise_images(1, SHAPE, seed=5).x, 4, 0)
    x[:, 0, 0, 0] = [1, 2, 3, 4]
    requests = [Request(f"sybil {i}", float(i), i, image, None) for i, image in enumerate(x)]
    verdicts = [v["m"] for _, v in replay({"m": monitor}, requests)]
    assert [verdict.alarm for verdict in verdicts] == [False, False, True, True]
    assert set(verdicts[3].evidence["accounts"]) == {f"sybil {i}" for i in range(4)}


def test_families_forget_what_is_old_and_what_is_too_much(model):
    x = np.repeat(noise_images(1, SHAPE, seed=5).x, 6, 0)
    x[:, 0, 0, 0] = np.arange(6)
    learn = {call: build("monitor", call).learn(KEY, model, noise_images(3, SHAPE)) for call in (
        "blacklight(window=6, memory=2.5)", "blacklight(window=6, capacity=2)")}  # fmt: skip
    for monitor in learn.values():
        state = monitor.init()
        for request in asked(x, model):
            score, _ = monitor.score(state, request)
        assert score == len(state.kept) <= 3
        assert sum(map(len, state.where.values())) == sum(len(it.fingerprint) for it in state.kept.values())
        assert len(state.images) == len(state.kept)


def test_w_is_that_of_scipy_on_distances_of_a_direct_computation(model):
    """The growing set by the paper's rule, kept apart from the monitor's."""
    x = noise_images(90, SHAPE, seed=2).x
    x[45:] = x[:45] + np.random.default_rng(0).integers(0, 2, (45, *SHAPE), np.uint8)  # small steps, as of an attack
    monitor = build("monitor", "prada(window=30)")
    logits = logits_of(model, x)
    sets, came, thresholds, seen, expected = {}, {}, {}, [], []
    for image, label in zip(x.reshape(90, -1) / 255.0, logits.argmax(-1), strict=True):
        if label not in sets:
            sets[label], came[label], thresholds[label] = [image], [0.0], 0.0
        else:
            away = min(np.linalg.norm(image - other) for other in sets[label])
            seen.append(away)
            if away > thresholds[label]:
                sets[label].append(image)
                came[label].append(away)
                thresholds[label] = max(thresholds[label], np.mean(came[label]) - np.std(came[label]))
        last = np.array(seen[-30:])
        kept = last[np.abs(last - last.mean()) <= 3 * last.std()] if len(seen) >= 30 else None
        expected.append(None if kept is None else shapiro(kept).statistic)
    found = run(monitor, asked(x, logits=logits))
    assert [it["w"] is None for _, it in found] == [w is None for w in expected]
    got = np.array([it["w"] for _, it in found if it["w"] is not None])
    np.testing.assert_allclose(got, [w for w in expected if w is not None], atol=2e-5)
    assert found[-1][0] == 1 - found[-1][1]["w"] and min(got) < 0.9 < max(got)


def test_a_growing_set_keeps_no_more_than_its_capacity(model):
    monitor = build("monitor", "prada(window=20, capacity=12)")
    state = monitor.init()
    for request in asked(noise_images(80, SHAPE).x, model):
        monitor.score(state, request)
    assert sum(len(own.images) for own in state.sets.values()) <= 12


def test_nearest_earlier_queries_are_those_of_cdist(model):
    monitor = build("monitor", "stateful_distance(k=3, encoder='features')").learn(KEY, model, noise_images(3, SHAPE))
    x = noise_images(30, SHAPE, seed=4).x
    found, encoded = run(monitor, asked(x, model)), features_of(model, x)
    for row in range(30):
        if row < 3:
            assert found[row][0] == 0 and found[row][1]["distance"] is None
            continue
        away = np.sort(cdist(encoded[row : row + 1], encoded[:row])[0])[:3]
        assert found[row][1]["distance"] == pytest.approx(away.mean(), rel=1e-4)
        assert found[row][0] == pytest.approx(1 / away.mean(), rel=1e-4)


def test_a_projection_of_the_pixels_keeps_their_distances_about():
    encode = build("monitor", "stateful_distance").learn(KEY, None, noise_images(2, (28, 28, 1))).encode
    x = noise_images(60, (28, 28, 1)).x
    rows, pixels = encode.many(x), x.reshape(60, -1) / 255
    ratio = cdist(rows, rows)[np.triu_indices(60, 1)] / cdist(pixels, pixels)[np.triu_indices(60, 1)]
    assert abs(ratio.mean() - 1) < 0.05 and ratio.std() < 2 / np.sqrt(2 * 64)


def test_similar_pairs_are_counted_for_a_day(model):
    monitor = build("monitor", "seat(encoder='features', memory=7.0)").learn(KEY, model, noise_images(400, SHAPE))
    x = np.repeat(noise_images(1, SHAPE, seed=7).x, 4, 0)
    x[:, 0, 0, 0] = [0, 1, 2, 3]
    found = run(monitor, asked(x, model, every=4.0))
    assert [score for score, _ in found] == [0, 1, 2, 2]  # the first pair was 4 seconds ago, then 8
    assert found[1][1]["nearest_request"] == 0 and found[1][1]["distance"] < found[1][1]["similar_below"]


def test_all_cells_visited_is_all_covered_and_visits_are_forgotten(model):
    data = noise_images(200, SHAPE, seed=8)
    monitor = build("monitor", "coverage(cells=8, memory=1000.0)").learn(KEY, model, data)
    found = run(monitor, asked(data.x, model))
    assert found[-1][0] == pytest.approx(1) and found[-1][1]["cells_visited"] == 8
    covered = [score for score, _ in found]
    assert covered == sorted(covered) and 0 < covered[0] < 0.5
    late = run(monitor, asked(data.x[:2], model, every=2000.0))
    assert late[1][1]["cells_visited"] == 1


def test_the_sum_of_evidence_is_pages(model):
    monitor = build("monitor", "out_of_distribution").learn(KEY, model, noise_images(300, SHAPE))
    x = noise_images(40, SHAPE, seed=3).x
    x[20:] = x[20:] // 64  # dark
    found, total = run(monitor, asked(x, model)), 0.0
    energy = -np.log(np.exp(logits_of(model, x)).sum(-1))
    for (score, told), value in zip(found, energy, strict=True):
        assert told["value"] == pytest.approx(value, abs=1e-6) and told["odd"] == (value > told["odd_above"])
        total = max(0.0, total + (np.log(6) if told["odd"] else np.log(0.7 / 0.95)))
        assert score == pytest.approx(total)


def test_mahalanobis_is_that_of_one_gaussian_a_class(model):
    data = noise_images(300, SHAPE)
    monitor = build("monitor", "out_of_distribution('mahalanobis')").learn(KEY, model, data)
    rows = features_of(model, data.x)
    means = np.stack([rows[data.y == label].mean(0) for label in range(5)])
    precision = np.linalg.pinv(np.cov((rows - means[data.y]).T, bias=True))
    other = noise_images(5, SHAPE, seed=9).x
    for (_, told), row in zip(run(monitor, asked(other, model)), features_of(model, other), strict=True):
        expected = min((row - mean) @ precision @ (row - mean) for mean in means)
        assert told["value"] == pytest.approx(expected, rel=1e-3)


def test_drift_is_found_by_the_window_that_drifts(model):
    data = noise_images(200, SHAPE)
    monitor = build("monitor", "drift(window=20)").learn(KEY, model, data)
    x = noise_images(60, SHAPE, seed=6).x
    x[40:] = x[40:] // 4
    found = run(monitor, asked(x, model))
    assert found[18][0] == 0 and found[18][1]["images_p"] is None
    assert found[39][1]["images_p"] > 0.01 and found[59][1]["images_p"] < 0.01
    assert found[59][0] > 3 * max(score for score, _ in found[:59])


def test_requests_of_the_last_hour_are_counted(model):
    monitor = build("monitor", "query_rate(window=10.0)")
    assert [score for score, _ in run(monitor, asked(noise_images(5, SHAPE).x, model, every=4.0))] == [1, 2, 3, 3, 3]


def test_what_is_remembered_is_the_last_rows_and_not_too_old():
    recent = Recent(4, 10.0)
    for number in range(50):
        recent.add(np.array([float(number)]), Request("a", float(number), number, None))
        assert recent.numbers.tolist() == list(range(max(0, number - 3), number + 1))
        np.testing.assert_array_equal(recent.rows[:, 0], recent.numbers)
    recent.forget(58.0)
    assert recent.numbers.tolist() == [49]
    assert len(recent.block) <= 16
    np.testing.assert_allclose(distances(np.eye(3, dtype=np.uint8), np.array([1, 0, 0], np.uint8)), [0, 2**0.5, 2**0.5])


def test_a_threshold_is_the_conformal_quantile():
    highest = np.random.default_rng(0).permutation(199).astype(float)  # 0 ... 198
    assert limit("m", highest, 0.01) == 197 and limit("m", highest, 0.005) == 198
    with pytest.raises(UserError, match="m: rate = 0.004: 199 days tell no rate below 0.005"):
        limit("m", highest, 0.004)


def test_honest_accounts_have_the_habits_they_are_said_to_have(model):
    data = noise_images(3000, SHAPE)
    streams = benign(KEY, model, data, 20, 1, habits=Habits(100, again=0.1, varied=0.2))
    known = {image.tobytes() for image in data.x}
    fresh = again = 0
    for stream in streams:
        sent = set()
        for image in stream.x:
            again += image.tobytes() in sent
            fresh += image.tobytes() in known and image.tobytes() not in sent
            sent.add(image.tobytes())
    assert again / 2000 == pytest.approx(0.1, abs=0.025) and fresh / 2000 == pytest.approx(0.7, abs=0.03)
    labels = np.stack([np.bincount(logits_of(model, it.x).argmax(-1), minlength=5) for it in streams])
    assert labels.sum() == 2000 and np.allclose(streams[0].logits, logits_of(model, streams[0].x), atol=1e-5)


def test_a_changed_image_is_a_moved_or_a_lighter_one():
    rng, x = np.random.default_rng(0), noise_images(1, SHAPE).x[0]
    moved = lighter = 0
    for _ in range(60):
        other = varied(rng, x)
        inner = [other[2 + dy : 6 + dy, 2 + dx : 6 + dx] for dy in range(-2, 3) for dx in range(-2, 3)]
        moved += any(np.array_equal(x[2:6, 2:6], part) for part in inner)
        lighter += bool(np.all(np.abs(other - x.astype(float)) <= 0.1 * x + 0.5))
    assert moved > 20 and lighter > 20 and moved + lighter >= 60


def test_requests_come_in_order_of_time_and_are_numbered(model):
    streams = benign(KEY, model, noise_images(300, SHAPE), 2, 2, habits=Habits(5))
    times = [times_of_day(jax.random.key(i), it, 2) for i, it in enumerate(streams)]
    assert all(np.sum(it < DAY) == 5 and np.all(np.diff(it) >= 0) and it.max() < 2 * DAY for it in times)
    found = merged({"a": (streams[0], times[0]), "b": (streams[1], times[1])})
    assert [it.number for it in found] == list(range(20)) and sorted(it.time for it in found) == [
        it.time for it in found
    ]
    np.testing.assert_array_equal([it.x for it in found if it.account == "b"], streams[1].x)


@pytest.mark.parametrize(
    "call, message",
    [
        ("blacklite", "no monitor 'blacklite'; did you mean 'blacklight'"),
        ("blacklight(share=1.0)", "blacklight: share = 1.0 must be at least 0 and below 1"),
        ("blacklight(window=0)", "blacklight: window = 0 must be greater than 0"),
        ("blacklight(salt=1)", "monitor 'blacklight' has no argument 'salt'"),
        ("prada(window=3)", "prada: window = 3 must be at least 10"),
        ("seat('pixel')", "seat: no encoder 'pixel'; did you mean 'pixels'"),
        ("out_of_distribution('entropy')", "out_of_distribution: no measure 'entropy'; did you mean 'energy'"),
        ("out_of_distribution(shifted=0.01)", "give 0 < odd < shifted < 1"),
        ("coverage(cells=1)", "coverage: cells = 1 must be at least 2"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        build("monitor", call)


def test_what_the_images_cannot_give_is_said_at_once(model):
    few = Dataset(noise_images(4, SHAPE).x, np.zeros(4, int), ("a",), "few")
    with pytest.raises(UserError, match="blacklight: window = 65: the images have 64 numbers"):
        build("monitor", "blacklight(window=65)").learn(KEY, model, few)
    with pytest.raises(UserError, match="drift: window = 50: there are 4 training images"):
        build("monitor", "drift").learn(KEY, model, few)
