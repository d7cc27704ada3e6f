"""Laws: what is true of every registered attack, ball and certifier, whoever writes the next one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.ops import bucket, drive, judge, runtime
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.ops.views import view
from robustbench_jax.registry import build, discover, entry
from robustbench_jax.threats import evasion
from robustbench_jax.types import Classifier, Problem
from tests import oracles

CALLS = {  # of attacks that need arguments, and shorter forms of long ones
    "adaptive": "adaptive(pgd(steps=3), queries=20)",
    "apgd": "apgd(steps=10)",
    "apgd_l1": "apgd_l1(iterations=10)",
    "bandits": "bandits(queries=40)",
    "boundary": "boundary(queries=60)",
    "bpda": "bpda(pgd(steps=3))",
    "carlini_wagner": "carlini_wagner(searches=3, iterations=5)",
    "carlini_wagner_linf": "carlini_wagner_linf(runs=4, iterations=5)",
    "cascade": "cascade([fgsm, pgd(steps=5, restarts=2)])",
    "ddn": "ddn(steps=10)",
    "deepfool": "deepfool(steps=5)",
    "di_fgsm": "di_fgsm(steps=3)",
    "ead": "ead(searches=2, iterations=5)",
    "eot": "eot(pgd(steps=3), samples=2)",
    "fab": "fab(steps=4)",
    "fab_targeted": "fab_targeted(steps=4, targets=3)",
    "fmn": "fmn(steps=10)",
    "hop_skip_jump": "hop_skip_jump(queries=60)",
    "mi_fgsm": "mi_fgsm(steps=3)",
    "nes": "nes(queries=40, samples=10)",
    "ni_fgsm": "ni_fgsm(steps=3)",
    "pdpgd": "pdpgd(steps=10)",
    "rays": "rays(queries=60)",
    "si_fgsm": "si_fgsm(steps=3, copies=2)",
    "sigma_zero": "sigma_zero(steps=10)",
    "sign_opt": "sign_opt(queries=60)",
    "simba": "simba(queries=40)",
    "spsa": "spsa(queries=40, samples=10)",
    "square": "square(queries=40)",
    "surfree": "surfree(queries=60)",
    "targeted": "targeted(pgd(steps=5))",
    "ti_fgsm": "ti_fgsm(steps=3, kernel=3)",
    "transfer": "transfer(pgd(steps=3), train='mlp([8])', count=1, recipe=sgd(epochs=1, batch_size=8))",
    "universal": "universal(updates=5, batch=8)",
    "vmi_fgsm": "vmi_fgsm(steps=3, samples=2)",
}
SIBLINGS = (  # made as another one here is: of their laws those that compile anew are slow tests
    *("adaptive", "bandits", "boundary", "bpda", "carlini_wagner_linf", "di_fgsm", "ead", "fab_targeted", "ni_fgsm"),
    *("patch_rs", "pdpgd", "sign_opt", "si_fgsm", "simba", "spsa", "surfree", "targeted", "ti_fgsm", "transfer"),
    "vmi_fgsm",
)
PARTS_ARE_HERE = ("autoattack",)  # long, and a cascade of others
ATTACKS = [
    CALLS.get(name, name)
    for name, e in discover("attack").items()
    if e.facts["threat"] == "evasion" and name not in PARTS_ARE_HERE
]
POOL = oracles.noise_images(16)
POOL = POOL.x, POOL.y
RADII = {"linf": 0.05, "l2": 0.3, "l1": 1.0, "l0": 3}


def balls(attack):
    known = build("attack", attack).budgets
    return [ball for ball in RADII if known is None or ball in known]


KERNELS = [text for text in ATTACKS if balls(text) and not build("attack", text).composite]
PAIRS = [(attack, ball) for attack in ATTACKS for ball in balls(attack)[: None if attack in KERNELS else 1]]
FIRST = [(attack, balls(attack)[0]) for attack in ATTACKS if balls(attack)]


def each(pairs, long=()):
    """One test for each pair. Other balls than an attack's first are slow: each compiles the attack anew."""
    slow = [pair not in FIRST or pair[0].startswith(long) for pair in pairs]
    return pytest.mark.parametrize(
        "attack, ball",
        [pytest.param(*pair, marks=pytest.mark.slow if s else ()) for pair, s in zip(pairs, slow, strict=True)],
    )


every_pair = each(PAIRS, long=("adaptive",))  # a cascade of others
every_attack = each(FIRST, long=SIBLINGS)
every_kernel = each([(text, balls(text)[0]) for text in KERNELS], long=SIBLINGS)


def prepared(attack, ball, model, data):
    """What the driver does before kernels run."""
    kernel, budget = build("attack", attack), build("budget", f"{ball}({RADII[ball]})")
    return kernel.prepare(jax.random.key(0), model, budget, *POOL, Runtime()) if kernel.prepares else kernel


def attacked(attack, ball, eps, model, data, seed=0, ids=None, runtime=Runtime(width=16)):
    return drive.drive(
        jax.random.key(seed),
        build("attack", attack),
        model,
        build("budget", f"{ball}({eps})"),
        data.x,
        data.y,
        ids=ids,
        pool=POOL,
        runtime=runtime,
    )


@functools.cache
def once(attack, ball):
    model, data = oracles.tiny()
    return attacked(attack, ball, RADII[ball], model, data)


@every_pair
def test_what_an_attack_returns_lies_in_the_ball_and_in_the_box(attack, ball, tiny):
    _, data = tiny
    found = once(attack, ball)
    assert found.x_adv.min() >= 0 and found.x_adv.max() <= 1
    sizes = jax.vmap(build("budget", f"{ball}({RADII[ball]})").size)(found.x_adv - as_unit(data.x))
    assert np.max(sizes) <= RADII[ball] + 2**-24 * data.x[0].size


@every_pair
def test_nothing_happens_at_radius_zero(attack, ball, tiny):
    model, data = tiny
    found = attacked(attack, ball, 0, model, data)
    assert not found.success.any()
    np.testing.assert_array_equal(found.x_adv, as_unit(data.x))


@every_attack
def test_the_same_key_gives_the_same_bits(attack, ball, tiny):
    again = attacked(attack, ball, RADII[ball], *tiny)
    for name, value in vars(once(attack, ball)).items():
        if name == "stages":
            continue
        np.testing.assert_array_equal(value, vars(again)[name], err_msg=name)


@every_attack
def test_neighbours_order_width_and_devices_do_not_matter(attack, ball, tiny):
    """Verdicts, costs and what broke an example are the same; x_adv agrees but for float32 rounding of gradients."""
    model, data = tiny
    rows, runtime, whole = np.array([3, 1, 5, 0, 2, 6, 4]), Runtime(width=8, devices=1), once(attack, ball)
    found = drive.drive(
        jax.random.key(0),
        build("attack", attack),
        model,
        build("budget", f"{ball}({RADII[ball]})"),
        data.x[rows],
        data.y[rows],
        ids=rows,
        pool=POOL,
        runtime=runtime,
    )
    for name in ("success", "broken_by", "forwards", "gradients"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name)[rows], err_msg=name)
    np.testing.assert_allclose(found.x_adv, whole.x_adv[rows], atol=1e-6)


@every_kernel
def test_new_eps_weights_and_numbers_compile_nothing(attack, ball, tiny):
    model, data = tiny
    attacked(attack, ball, 0.2 * RADII[ball], model, data)
    compiled = [f._cache_size() for f in (bucket.start, bucket.step, bucket.steps, judge._judge)]
    other = model.replace(params=jax.tree.map(lambda value: value * 1.1, model.params))
    attacked(attack, ball, 0.4 * RADII[ball], other, data, seed=1)
    changed = _other_numbers(build("attack", attack))
    smaller = build("budget", f"{ball}({0.2 * RADII[ball]})")
    drive.drive(jax.random.key(0), changed, model, smaller, data.x, data.y, pool=POOL, runtime=Runtime(width=16))
    assert [f._cache_size() for f in (bucket.start, bucket.step, bucket.steps, judge._judge)] == compiled


def few(attack, ball, eps, tiny):
    """Eight examples on one device: arguments of bucket.steps, and the first states. Compiled once for several laws."""
    model, data = tiny
    kernel, budget = prepared(attack, ball, model, data), build("budget", f"{ball}({eps})")
    model, place = runtime.placed(model, Runtime(width=8, devices=1), 8)
    rows = map(place, (data.x[:8], data.y[:8], np.arange(8), np.zeros(8, np.int64)))
    lanes, states = bucket.start(jax.random.key(0), kernel, model, budget, *rows)
    return (jax.random.key(0), kernel, model, budget, lanes), states


@every_kernel
def test_done_means_that_the_judge_agrees(attack, ball, tiny):
    arguments, states = few(attack, ball, RADII[ball], tiny)
    _, kernel, model, budget, lanes = arguments
    states, _ = bucket.steps(*arguments, states, int(kernel.steps))
    x, y, target = (np.asarray(rows) for rows in (lanes.x, lanes.y, lanes.target))
    judged = judge.judge(model, budget, kernel.goal, x, np.asarray(states.x_adv), y, target)
    assert np.all(judged.success[np.asarray(states.done)])


class Counting:
    """A net that counts its forward and backward passes as they are made, also those of a vmap."""

    def __init__(self, net):
        self.forwards = self.gradients = 0
        forward_of, backward_of = self._ticking("forwards"), self._ticking("gradients")

        @jax.custom_vjp
        def call(params, x):
            return net(params, forward_of(x))

        def forward(params, x):
            return jax.vjp(net, params, forward_of(x))

        def backward(pull, g):
            return pull(backward_of(g))

        call.defvjp(forward, backward)
        self.call = call

    def _ticking(self, name):
        """The identity, which counts what passes through it."""

        @jax.custom_batching.custom_vmap
        def tick(value):
            setattr(self, name, getattr(self, name) + 1)
            return value

        @tick.def_vmap
        def _(lanes, batched, value):
            setattr(self, name, getattr(self, name) + lanes - 1)
            return value, batched[0]

        return tick

    def __call__(self, params, x):
        return self.call(params, x)


@every_kernel
def test_the_evaluations_that_a_state_counts_are_those_that_are_made(attack, ball, tiny):
    """Made: by init, and by each step, when they are traced."""
    arguments, states = few(attack, ball, 0.01 * RADII[ball], tiny)
    key, kernel, model, budget, lanes = arguments
    counted = Counting(model.net)
    seen = view(Classifier(counted, model.params), kernel.access)
    problem = Problem(seen, budget, kernel.goal, *(leaf[0] for leaf in (lanes.x, lanes.y, lanes.target, lanes.item)))
    kinds = jax.eval_shape(kernel.init, key, problem)
    at_first, counted.forwards, counted.gradients = (counted.forwards, counted.gradients), 0, 0
    jax.eval_shape(kernel.step, key, problem, kinds)
    each_step = counted.forwards, counted.gradients
    made = np.tile(at_first, (8, 1))
    for _ in range(3):
        made[~np.asarray(bucket._over(kernel, states))] += each_step
        states, _ = bucket.steps(*arguments, states, 1)
        np.testing.assert_array_equal(np.stack([states.forwards, states.gradients], 1), made)


@pytest.mark.parametrize("access", ["scores", "labels"])
def test_black_box_views_have_exactly_zero_gradient(access, tiny):
    model, data = tiny
    x = as_unit(data.x[0])
    gradient = jax.grad(lambda x: jnp.sum(view(model, access)(x) ** 2))(x)
    assert np.all(np.asarray(gradient) == 0)
    assert np.argmax(view(model, access)(x)) == np.argmax(model(x))


@every_attack
def test_black_box_attacks_ask_for_no_gradient_and_every_attack_says_what_it_needs(attack, ball):
    access = build("attack", attack).access
    assert access in ("gradients", "scores", "labels", "none")
    assert access == "gradients" or not once(attack, ball).gradients.any()


@each([pair for pair in FIRST if pair[1] != "l0"])
def test_no_attack_breaks_a_linear_model_inside_its_exact_radius(attack, ball, linear):
    """The linear margin is a certificate: what it proves robust, nothing may break."""
    eps = float(np.median(linear.distance(ball)))
    outcome = evasion.run(
        jax.random.key(0), linear.model, linear.data, build("attack", attack), build("budget", f"{ball}({eps})")
    )
    assert np.all(outcome.arrays["robust"][linear.distance(ball) > eps * (1 + 1e-5)])


CERTIFIERS = {  # arguments of those that need some, or would take long
    "alpha_crown": "alpha_crown(steps=5)",
    "branch_and_bound": "branch_and_bound(timeout=1000.0, domains=4)",
    "randomized_smoothing": "randomized_smoothing(sigma=0.1, n=500, n0=20)",
}
LONG = ("alpha_crown", "branch_and_bound")  # to compile: their laws are slow tests
SMALL = 0.2  # of RADII: there is something to certify


def certifiers(ball=None):
    """Call strings of all, or of those that prove something about the model itself in this ball."""
    built = {name: build("certifier", CERTIFIERS.get(name, name)) for name in discover("certifier")}
    if ball is not None:
        built = {name: c for name, c in built.items() if not c.own_prediction and c.failure == 0}
        built = {name: c for name, c in built.items() if c.budgets is None or ball in c.budgets}
    return [CERTIFIERS.get(name, name) for name in built]


def first_ball(certifier):
    known = build("certifier", certifier).budgets
    return next((ball for ball in RADII if known is None or ball in known), None)


def is_long(certifier):
    return certifier.startswith(LONG)


every_certifier = pytest.mark.parametrize(
    "certifier",
    [pytest.param(c, marks=pytest.mark.slow if is_long(c) else ()) for c in certifiers() if first_ball(c)],
)


@functools.cache
def certificate(certifier, ball, part):
    """Of the tiny model at a part of RADII."""
    return certificate_of(certifier, ball, part, np.arange(32), Runtime(width=16))


def certificate_of(certifier, ball, part, ids, runtime, y=None):
    model, data = oracles.tiny()
    y, budget = data.y if y is None else y, build("budget", f"{ball}({part * RADII[ball]})")
    made = build("certifier", certifier)
    return made.certify(jax.random.key(0), model, data.x[ids], y[ids], budget, ids=ids, runtime=runtime)


@each([pair for pair in FIRST if certifiers(pair[1])])
def test_no_attack_breaks_what_is_certified(attack, ball):
    """At the attack's own radius, and at a smaller one where what it found is no larger than that."""
    nothing_breaks(attack, ball, [text for text in certifiers(ball) if not is_long(text)])


@pytest.mark.slow
@each([pair for pair in FIRST if certifiers(pair[1])])
def test_no_attack_breaks_what_is_certified_at_length(attack, ball):
    nothing_breaks(attack, ball, [text for text in certifiers(ball) if is_long(text)])


def nothing_breaks(attack, ball, chosen):
    found = once(attack, ball)
    for certifier in chosen:
        for part in (1.0, SMALL):
            broken = found.success & (found.size <= part * RADII[ball])
            assert not np.any(certificate(certifier, ball, part).certified & broken), certifier


@every_certifier
def test_a_certifier_proves_something_and_less_at_larger_radii(certifier):
    """Not of each image where the certificate is a vote."""
    ball = first_ball(certifier)
    small, large = (certificate(certifier, ball, part).certified.sum() for part in (SMALL, 1.0))
    assert 0 < small and large <= small


@every_certifier
def test_at_radius_zero_exactly_the_right_images_are_certified(certifier, tiny):
    """Of certifiers of the model itself; those of another one certify no image that theirs gets wrong."""
    model, data = tiny
    y = np.where(np.arange(32) % 4 == 0, (data.y + 1) % 5, data.y)
    found = certificate_of(certifier, first_ball(certifier), 0, np.arange(32), Runtime(width=16), y)
    if not build("certifier", certifier).own_prediction:
        np.testing.assert_array_equal(found.certified, y == data.y)
    assert np.all(found.prediction[found.certified] == y[found.certified])
    assert found.certified.any()


@every_certifier
def test_neighbours_order_and_width_do_not_matter_to_a_certificate(certifier):
    ball, rows = first_ball(certifier), np.array([3, 1, 5, 0, 2, 6, 4])
    whole, found = (
        certificate(certifier, ball, SMALL),
        certificate_of(certifier, ball, SMALL, rows, Runtime(width=8, devices=1)),
    )
    np.testing.assert_array_equal(found.certified, whole.certified[rows])
    np.testing.assert_array_equal(found.prediction, whole.prediction[rows])
    np.testing.assert_allclose(found.margin, whole.margin[rows], atol=1e-4)


@pytest.mark.parametrize("kind", ["attack", "budget", "certifier", "dataset", "model", "training", "recipe", "loss"])
def test_everything_registered_says_what_it_is_in_its_first_line(kind):
    for name, found in discover(kind).items():
        described = found.make.__doc__ or __import__(found.make.__module__, fromlist=["x"]).__doc__
        assert described and described.strip(), f"{kind} {name}"
        assert entry(kind, name) is found


def _other_numbers(attack):
    """The same attack with other traced values: one step fewer, halves of fractions."""
    leaves, structure = jax.tree.flatten(attack)
    return jax.tree.unflatten(structure, [max(1, v - 1) if isinstance(v, int) else v / 2 for v in leaves])
