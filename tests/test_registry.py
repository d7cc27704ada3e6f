"""Call strings: parsing, identity, the form in tables, typed arguments, and the answer to each wrong one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_jax import registry
from robustbench_jax.attacks.evasion.cascade import Cascade
from robustbench_jax.attacks.evasion.fgsm import FGSM
from robustbench_jax.attacks.evasion.pgd import PGD
from robustbench_jax.attacks.evasion.targeted import Targeted
from robustbench_jax.ops.balls import Linf
from robustbench_jax.registry import Call, build, canonical, discover, entry, nearest, parse, register, short
from robustbench_jax.types import UserError

PGD_40 = "pgd(steps=40, step_size=None, restarts=1, momentum=0.0, loss='cross_entropy', random_start=True)"


@pytest.fixture
def toy():
    """A kind "toy" with one entry for each sort of argument; forgotten afterwards."""

    @register("toy", "leaf")
    def leaf(size: int = 1):
        return ("leaf", size)

    @register("toy", "typed")
    def typed(i: int = 1, f: float = 0.5, s: str = "a", b: bool = True, t: tuple = (1,), o: int | None = None):
        return (i, f, s, b, t, o)

    @register("toy", "tree", parts={"one": "toy", "many": "toy"})
    def tree(one, many: tuple = ("leaf", "leaf(2)"), name: str = "oak"):
        return (one, many, name)

    @register("toy", "fed", given=("rngs",))
    def fed(width: int, *, rngs):
        return (width, rngs)

    yield
    del registry._entries["toy"]


@pytest.mark.parametrize(
    "text, call",
    [
        ("pgd", Call("pgd")),
        ("  pgd  ", Call("pgd")),
        ("pgd()", Call("pgd")),
        ("fashion_mnist/linf/pgd_at", Call("fashion_mnist/linf/pgd_at")),
        ("pgd(40, step_size=0.1)", Call("pgd", (40,), (("step_size", 0.1),))),
        ("linf(8/255)", Call("linf", (8 / 255,))),
        ("linf((1 + 2) * 4 - 1.5)", Call("linf", (10.5,))),
        ("linf(-1)", Call("linf", (-1,))),
        ("npz('a b.npz')", Call("npz", ("a b.npz",))),
        ("f(True, None, [1, [2]], (3,))", Call("f", (True, None, (1, (2,)), (3,)))),
        ("f(true, a=false)", Call("f", (True,), (("a", False),))),
        ("targeted(pgd)", Call("targeted", (Call("pgd"),))),
        ("f(g(h(1)))", Call("f", (Call("g", (Call("h", (1,)),)),))),
        ("f(k=[a, b(2)])", Call("f", (), (("k", (Call("a"), Call("b", (2,)))),))),
    ],
)
def test_a_call_string_parses_to_its_name_and_arguments(text, call):
    assert parse(text) == call
    assert parse(call) is call


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "'' is no call string; write a name such as pgd or a call such as pgd\\(steps=40\\)"),
        ("   ", "is no call string"),
        (None, "None is no call string"),
        (40, "40 is no call string"),
        ("pgd(steps=40", "'pgd\\(steps=40' is no call string"),
        ("pgd(steps=40))", "is no call string"),
        ("pgd steps=40", "is no call string"),
        ("pgd(steps=)", "is no call string"),
        ("pgd(\x00)", "is no call string"),
        ("1 + 1", "is no call string"),
        ("a.b(1)", "is no call string"),
        ("pgd()()", "is no call string"),
        ("pgd(**{'steps': 1})", "is no call string"),
        ("pgd(steps=x.y)", "'x.y' in .* is no literal"),
        ("pgd(*[1])", "is no literal"),
        ("pgd(lambda: 1)", "is no literal"),
        ("pgd(steps=2**3)", "'2 \\*\\* 3' in .* is no literal"),
        ("pgd(steps={[1]: 2})", "is no literal"),
        ("linf(8/0)", "'8 / 0' in 'linf\\(8/0\\)': division by zero"),
        ("linf('a' + 1)", "'a' \\+ 1"),
        ("linf('a' * 99999999999999)", "numbers"),
        ("linf([1] * 99999999999999)", "numbers"),
        ("linf(1e308 * 1" + "0" * 400 + ")", "too large"),
    ],
)
def test_what_is_no_call_string_is_refused_with_the_text(text, message):
    with pytest.raises(UserError, match=message):
        parse(text)


WORDS = ("pgd", "linf", "steps", "eps", "1", "0", "255", "1e9", "None", "x")
ALPHABET = st.sampled_from([*"()[]{},=/*+-.'\" \n", *WORDS])


@given(st.lists(ALPHABET, max_size=12).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_is_built_or_refused_in_one_line_never_anything_else(text):
    for kind in ("attack", "budget"):
        try:
            made = canonical(kind, text)
            build(kind, text)
        except UserError as error:
            assert str(error)
        else:
            assert canonical(kind, made) == made


def test_the_identity_writes_every_argument_however_it_was_written():
    for text in ("pgd", "pgd()", " pgd(40) ", "pgd(steps=40)", "pgd(restarts=1, steps=40)", "pgd(20 + 20)"):
        assert canonical("attack", text) == PGD_40
    assert canonical("budget", "linf(1)") == canonical("budget", "linf(eps=1.0)") == "linf(eps=1.0)"
    assert canonical("attack", "pgd(steps=41)") != PGD_40


def test_tables_leave_out_parts_that_are_the_default_however_they_are_written():
    written = canonical("attack", "transfer(pgd, twin=true)")
    assert short("attack", written) == short("attack", "transfer(pgd, twin=True)") == "transfer(attack=pgd, twin=True)"
    assert "epochs=6" in short("attack", "transfer(pgd, twin=True, recipe=sgd(epochs=6, learning_rate=0.05))")


def test_the_identity_reaches_into_parts_and_lists_of_parts():
    written = canonical("attack", "cascade([fgsm, targeted(pgd)])")
    fgsm = "fgsm(loss='cross_entropy')"
    assert written == f"cascade(attacks=[{fgsm}, targeted(attack={PGD_40}, label='random')])"
    assert canonical("attack", "cascade((fgsm(), targeted('pgd', label='random')))") == written


def test_defaults_that_name_parts_are_written_out_as_well(toy):
    many = "[leaf(size=1), leaf(size=2)]"
    assert canonical("toy", "tree(leaf)") == f"tree(one=leaf(size=1), many={many}, name='oak')"
    defence = canonical("training", "adversarial_training")
    pgd_10 = PGD_40.replace("40", "10")
    assert defence == f"adversarial_training(attack={pgd_10}, budget=linf(eps={8 / 255!r}))"


def test_the_identity_is_a_call_string_with_the_same_identity(toy):
    examples = [
        ("attack", "cascade([fgsm, targeted(pgd(7), 'most_likely'), pgd(restarts=2)])"),
        ("training", "adversarial_training(pgd(steps=7), linf(0.1))"),
        ("model", "cnn([[8, 3, 1]], [16])"),
        ("dataset", r"""npz("a 'quoted' \\ \n ü.npz")"""),
        ("toy", "typed(2, 1, 'x', False, [], 3)"),
        ("toy", "tree(leaf(3), [], name='')"),
    ]
    for kind, text in examples:
        made = canonical(kind, text)
        assert canonical(kind, made) == made
        assert canonical(kind, short(kind, text)) == made


@pytest.mark.parametrize(
    "kind, text, shown",
    [
        ("attack", PGD_40, "pgd"),
        ("attack", "pgd(steps=40)", "pgd"),
        ("attack", "pgd(steps=7)", "pgd(7)"),
        ("attack", "pgd(restarts=5)", "pgd(restarts=5)"),
        ("attack", "pgd(restarts=5, steps=7)", "pgd(steps=7, restarts=5)"),
        ("budget", "linf(8/255)", "linf(8/255)"),
        ("budget", "linf(eps=0.0313725490196078431)", "linf(8/255)"),
        ("budget", "linf(0.1)", "linf(0.1)"),
        ("budget", "l2(1/3)", "l2(85/255)"),
        ("budget", "l2(1/7)", f"l2({1 / 7!r})"),
        ("attack", "cascade([fgsm, targeted(pgd(7))])", "cascade([fgsm, targeted(pgd(7))])"),
        ("training", "adversarial_training(pgd(steps=10), linf(8/255))", "adversarial_training"),
        ("training", "adversarial_training(pgd(7))", "adversarial_training(pgd(7))"),
        ("training", "adversarial_training(pgd, l2(1))", "adversarial_training(attack=pgd, budget=l2(1.0))"),
        ("dataset", 'npz("my.npz")', "npz('my.npz')"),
    ],
)
def test_tables_show_only_what_differs_from_the_defaults(kind, text, shown):
    assert short(kind, text) == shown


def test_build_makes_the_thing_with_its_parts():
    assert build("attack", "pgd(7, momentum=1)") == PGD(steps=7, momentum=1.0)
    assert build("attack", "targeted(pgd(7), 'least_likely')") == Targeted(PGD(steps=7), "least_likely")
    assert build("attack", "cascade([fgsm, pgd(7)])") == Cascade((FGSM(), PGD(steps=7)))
    assert build("budget", Call("linf", (0.5,))) == Linf(0.5)


def test_build_passes_what_the_program_gives_and_makes_default_parts(toy):
    many = (("leaf", 1), ("leaf", 2))
    assert build("toy", "tree(leaf(9))") == (("leaf", 9), many, "oak")
    assert build("toy", "tree(tree('leaf'), [])") == ((("leaf", 1), many, "oak"), (), "oak")
    assert build("toy", "fed(3)", rngs="keys") == (3, "keys")
    with pytest.raises(UserError, match="toy 'fed' has no argument 'rngs'"):
        build("toy", "fed(3, rngs=1)", rngs="keys")


def test_arguments_have_the_types_of_the_signature(toy):
    made = build("toy", "typed(2, 1, 'x', False, [1, [2.5]], 4)")
    assert made == (2, 1.0, "x", False, (1, (2.5,)), 4)
    assert isinstance(made[1], float)
    assert build("toy", "typed(o=None)")[-1] is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("i=1.5", "toy 'typed': i = 1.5 must be an int"),
        ("i=2.0", "i = 2.0 must be an int"),
        ("i=True", "i = True must be an int"),
        ("i='3'", "i = '3' must be an int"),
        ("i=None", "i = None must be an int"),
        ("i=[1]", "i = \\(1,\\) must be an int"),
        ("i=8/4", "i = 2.0 must be an int"),
        ("f='big'", "f = 'big' must be a float"),
        ("f=False", "f = False must be a float"),
        ("f=1" + "0" * 400, "must be a float"),
        ("s=3", "s = 3 must be a str"),
        ("s=word", "s = word must be a literal; write text in quotes"),
        ("i=leaf(2)", "i = leaf must be a literal"),
        ("i=nan", "i = nan must be a finite number"),
        ("b=1", "b = 1 must be a bool"),
        ("t=3", "t = 3 must be a tuple"),
        ("o='x'", "o = 'x' must be an int"),
    ],
)
def test_an_argument_of_another_type_is_refused_with_name_and_value(toy, arguments, message):
    for use in (build, canonical, short):
        with pytest.raises(UserError, match=message):
            use("toy", f"typed({arguments})")


@pytest.mark.parametrize(
    "text, message",
    [
        ("pdg", "^no attack 'pdg'; did you mean 'pgd'\\?$"),
        ("xyz", "^no attack 'xyz'; there are: .*, cascade, .*, fgsm, .*, pgd, .*, uniform_noise.*$"),
        ("pgd(step=40)", "^attack 'pgd' has no argument 'step'; did you mean 'steps'\\?$"),
        ("fgsm(zzz=1)", "^attack 'fgsm' has no argument 'zzz'; there are: loss$"),
        ("pgd(40, steps=40)", "^attack 'pgd': 'steps' is given twice$"),
        ("pgd(steps=1, steps=2)", "^attack 'pgd': 'steps' is given twice$"),
        ("fgsm('cross_entropy', 2)", "^attack 'fgsm' takes at most 1 arguments?: loss; got 2$"),
        ("targeted()", "^attack 'targeted' needs 'attack'; write e.g. targeted\\(attack=...\\)$"),
        ("targeted(5)", "^attack 'targeted': attack = 5 must name an attack$"),
        ("targeted(pdg)", "no attack 'pdg'; did you mean 'pgd'"),
        ("targeted(pgd(step=4))", "attack 'pgd' has no argument 'step'"),
        ("cascade([fgsm, pdg])", "no attack 'pdg'; did you mean 'pgd'"),
        ("targeted(None)", "^attack 'targeted': attack = None must name an attack$"),
        ("cascade([fgsm, None])", "^attack 'cascade': attacks = None must name an attack$"),
        ("cascade([fgsm, 3])", "^attack 'cascade': attacks = 3 must name an attack$"),
        ("adversarial_training", "no attack 'adversarial_training'"),
    ],
)
def test_an_unknown_name_or_argument_is_refused_with_the_nearest_right_one(text, message):
    for use in (build, canonical, short):
        with pytest.raises(UserError, match=message):
            use("attack", text)


@pytest.mark.parametrize(
    "kind, text, message",
    [
        ("attack", "pgd(steps=0)", "pgd: steps = 0 must be greater than 0"),
        ("attack", "pgd(restarts=-1)", "pgd: restarts = -1 must be greater than 0"),
        ("attack", "pgd(loss='cross_entrpy')", "no loss 'cross_entrpy'; did you mean 'cross_entropy'"),
        ("attack", "targeted(pgd, label='most_likly')", "did you mean 'most_likely'"),
        ("attack", "cascade([])", "cascade needs a list of attacks"),
        ("attack", "cascade(fgsm)", "cascade needs a list of attacks"),
        ("budget", "linf(-0.1)", "linf: eps = -0.1 must be a finite number of at least 0"),
        ("budget", "l2(1e999)", "l2: eps = inf"),
        ("budget", "l1(1e999 - 1e999)", "l1: eps = nan"),
        ("recipe", "sgd(epochs=0)", "sgd: epochs = 0 must be greater than 0"),
        ("recipe", "sgd(schedule='cosin')", "did you mean 'cosine'"),
        ("training", "gaussian_noise(0)", "gaussian_noise: sigma = 0.0 must be greater than 0"),
    ],
)
def test_a_value_that_cannot_work_is_refused_when_the_thing_is_built(kind, text, message):
    with pytest.raises(UserError, match=message):
        build(kind, text)


def test_discovery_finds_every_kind_by_name_in_order():
    for kind in registry.PACKAGES:
        found = discover(kind)
        assert found and list(found) == sorted(found)
        for name, it in found.items():
            assert (it.kind, it.name) == it.make.registered == (kind, name)
    with pytest.raises(UserError, match="no kind of component 'atack'; did you mean 'attack'"):
        discover("atack")


def test_classes_of_one_name_in_two_files_are_two_things(toy):
    made = [type("Same", (), {"__module__": f"robustbench_jax.{place}"}) for place in ("here", "there")]
    register("toy", "same")(made[0])
    with pytest.raises(ValueError, match="two things are registered as toy 'same'"):
        register("toy", "same")(made[1])


def test_two_things_cannot_have_one_name_but_a_module_may_be_imported_again(toy):
    def leaf():
        return None

    with pytest.raises(ValueError, match="two things are registered as toy 'leaf'"):
        register("toy", "leaf")(leaf)
    again = entry("toy", "leaf").make
    assert register("toy", "leaf")(again) is again


def test_the_nearest_word_is_named_or_else_all_of_them():
    assert nearest("leter", ["letter", "word"]) == "; did you mean 'letter'?"
    assert nearest("qqq", ["letter", "word"]) == "; there are: letter, word"
    assert nearest("qqq", []) == "; there are: none"
