"""From Python: the same record as the command line gives."""

from robustbench_jax.bench import workshop
from robustbench_jax.bench.cells import Cell, kind_of_model, make_cell, trains, verb_of
from robustbench_jax.bench.evaluation import Evaluation, attacks, evaluation
from robustbench_jax.bench.records import Record
from robustbench_jax.bench.runner import run_cell, run_training_cell, training_images
from robustbench_jax.bench.workshop import load_model
from robustbench_jax.data import checks, load_dataset
from robustbench_jax.models import zoo
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import canonical
from robustbench_jax.threats.evasion import check
from robustbench_jax.types import Classifier, Dataset, UserError


def attack(
    model: Classifier | str,
    data: Dataset | str,
    attack: str,
    budget: str,
    *,
    examples: int | None = None,
    seed: int = 0,
    name: str | None = None,
    pool: Dataset | None = None,
    runtime: Runtime = Runtime(),
) -> Record:
    """Attacks the first `examples` of `data` (None: all) and returns the record.

    model: a Classifier, or the name of a trained one. data: a Dataset, or a call string (its test split). attack and
    budget: call strings. name: what the record calls a Classifier that is not in the zoo. pool: training images, for
    attacks that learn from some beforehand; those of `data` where it is a call string.
    Raises UserError for anything that cannot be run, before any long work.
    """
    method = {"attack": attack, "budget": budget}
    _require_function("attack", make_cell(model="mlp", dataset="fashion_mnist_mini", **method))
    return _run(method, model, data, examples=examples, seed=seed, name=name, pool=pool, runtime=runtime)


def certify(
    model: Classifier | str,
    data: Dataset | str,
    certifier: str,
    budget: str,
    *,
    examples: int | None = None,
    seed: int = 0,
    name: str | None = None,
    runtime: Runtime = Runtime(),
) -> Record:
    """Certifies the first `examples` of `data` (None: all) and returns the record.

    model: a Classifier, or the name of a trained one. data: a Dataset, or a call string (its test split). certifier
    and budget: call strings. name: what the record calls a Classifier that is not in the zoo.
    Raises UserError for anything that cannot be run, before any long work.
    """
    method = {"certifier": certifier, "budget": budget}
    return _run(method, model, data, examples=examples, seed=seed, name=name, pool=None, runtime=runtime)


def poison(
    model: str,
    data: str,
    attack: str,
    budget: str,
    *,
    defence: str = "",
    recipe: str = "",
    data_defence: str = "",
    model_defence: str = "",
    inspection: str = "",
    examples: int | None = None,
    seed: int = 0,
    directory: str = "runs/victims",
    runtime: Runtime = Runtime(),
) -> Record:
    """Poisons training data, trains on them, defends and judges: the record of backdoors, poisoning, Byzantine clients.

    model: an architecture, e.g. "cnn"; data, attack, budget (rate(0.05), count(25), byzantine(4)) and all defences are
    call strings. examples: how many test images are judged, or how many targets. directory: where trained models are
    kept, and found again. Raises UserError for anything that cannot be run, before any long work.
    """
    more = {"data_defence": data_defence, "model_defence": model_defence, "inspection": inspection}
    cell = make_cell(
        model=model,
        dataset=data,
        attack=attack,
        budget=budget,
        defence=defence,
        recipe=recipe,
        examples=examples,
        seed=seed,
        **more,
    )
    _require_function("poison", cell)
    return _in_workshop(cell, directory, runtime)


def privacy(
    model: str,
    data: str,
    attack: str,
    budget: str,
    *,
    defence: str = "",
    recipe: str = "",
    examples: int | None = None,
    seed: int = 0,
    directory: str = "runs/victims",
    runtime: Runtime = Runtime(),
) -> Record:
    """The record of an attack on the privacy of training data: membership, attributes, an audit, inversion.

    model: an architecture, or for shared gradients any trained model too; data, attack, budget (shadows(8),
    complete(200), canaries(500), gradients(1), reconstructions(10)) and defence are call strings; the rest as in
    `poison`.
    """
    given = {"defence": defence, "recipe": recipe, "examples": examples, "seed": seed}
    cell = make_cell(model=model, dataset=data, attack=attack, budget=budget, **given)
    _require_function("privacy", cell)
    return _in_workshop(cell, directory, runtime)


def steal(
    model: Classifier | str,
    data: Dataset | str,
    attack: str,
    budget: str,
    model_defence: str = "",
    *,
    examples: int | None = None,
    seed: int = 0,
    name: str | None = None,
    pool: Dataset | None = None,
    runtime: Runtime = Runtime(),
) -> Record:
    """Steals a trained model by its answers and compares the copy with it on the first `examples` of `data`.

    attack, budget (queries(1000)) and model_defence (what protects the answers, e.g. "top_k(1)") are call strings.
    pool: the thief's images, training images of `data` where it is a call string. The other arguments are those of
    `attack`. Raises UserError for anything that cannot be run, before any long work.
    """
    template = make_cell(model="mlp", dataset="fashion_mnist_mini", attack=attack, budget=budget)
    _require_function("steal", template)
    if pool is None:
        if not isinstance(data, str):
            raise UserError("steal: give the thief's images as pool")
        pool = load_dataset(data, "train", None)
    model, text = _model(model, name)
    if model_defence:
        model = workshop.protect(model, model_defence, pool, seed)
    method = {"attack": attack, "budget": budget, "model_defence": model_defence}
    return _run(method, model, data, examples=examples, seed=seed, name=text, pool=pool, runtime=runtime)


def watermark(
    model: str,
    data: str,
    attack: str,
    budget: str,
    *,
    defence: str,
    recipe: str = "",
    examples: int | None = None,
    seed: int = 0,
    directory: str = "runs/victims",
    runtime: Runtime = Runtime(),
) -> Record:
    """Marks a model, lets a thief at it, and says whether its owner can still tell it, with a p-value.

    model: an architecture; data, attack (no_removal, fine_tune_all, extract, ...), budget (images(2000), the thief's)
    and defence (the mark: trigger_set, uchida, ...) are call strings; the rest as in `poison`.
    """
    given = {"defence": defence, "recipe": recipe, "examples": examples, "seed": seed}
    cell = make_cell(model=model, dataset=data, attack=attack, budget=budget, **given)
    _require_function("watermark", cell)
    return _in_workshop(cell, directory, runtime)


def monitor(
    model: Classifier | str,
    data: Dataset | str,
    attack: str,
    budget: str,
    monitor: str,
    model_defence: str = "",
    *,
    examples: int | None = None,
    seed: int = 0,
    name: str | None = None,
    pool: Dataset | None = None,
    runtime: Runtime = Runtime(),
) -> Record:
    """Says how soon a monitor sees an attack in the requests to a trained model, or how often it sees one in none.

    attack (evading(square, linf(0.05)), jacobian, honest, ...), budget (traffic(20, 300)), monitor (blacklight, ...)
    and model_defence are call strings. pool: training images, which the monitor is prepared on; those of `data` where
    it is a call string. The other arguments are those of `attack`. Raises UserError for anything that cannot be run,
    before any long work.
    """
    method = {"attack": attack, "budget": budget, "monitor": monitor, "model_defence": model_defence}
    _require_function("monitor", make_cell(model="mlp", dataset="fashion_mnist_mini", **method))
    if pool is None:
        if not isinstance(data, str):
            raise UserError("monitor: give training images as pool, for the monitor to be prepared on")
        pool = load_dataset(data, "train", None)
    model, text = _model(model, name)
    if model_defence:
        model = workshop.protect(model, model_defence, pool, seed)
    watched = {"monitor": workshop.watching(model, monitor, pool, seed)}
    options = {"examples": examples, "seed": seed, "name": text, "pool": None, "runtime": runtime}
    return _run(method, model, data, watched=watched, **options)


def _in_workshop(cell: Cell, directory: str, runtime: Runtime) -> Record:
    """The record of a cell whose models the workshop makes."""
    shop = workshop.Workshop(directory)
    images = shop.dataset(cell.dataset, cell.split, cell.examples)
    if trains(cell.threat):
        return run_training_cell(cell, shop.lab(cell), images, runtime=runtime)[0]
    return run_cell(cell, shop.victim(cell), images, training=shop.training(cell), runtime=runtime)[0]


def _require_function(name: str, cell: Cell) -> None:
    """UserError for a threat that another function, or verb, is for."""
    if (wanted := verb_of(cell.threat)) != name:
        raise UserError(f"attack = '{cell.attack}' belongs to '{cell.threat}'; use {wanted}()")


def evaluate(
    model: Classifier | str,
    data: Dataset | str,
    budget: str,
    attack: str = "pgd(steps=40)",
    model_defence: str = "",
    *,
    examples: int | None = None,
    seed: int = 0,
    name: str | None = None,
    pool: Dataset | None = None,
    checks: bool = False,
    runtime: Runtime = Runtime(),
) -> Evaluation:
    """Attacks the first `examples` of `data` with the attack and with adaptive(attack), and says what withstands both.

    Of a model that may give no answer the static attack is one that does not know so: it is made on the undefended
    model inside. model_defence: what is made of the model first, e.g. "bit_depth(4)"; where data is no call string it
    needs training images as `pool`. checks: look for signs of masked gradients as well (checklist). The other
    arguments are those of `attack`. Raises UserError for anything that cannot be run, before any long work.
    """
    for text in attacks(attack, False, checks):
        given = {"attack": text, "budget": budget, "model_defence": model_defence, "seed": seed}
        _require_function("attack", make_cell(model="mlp", dataset="fashion_mnist_mini", **given))
    model, text = _model(model, name)
    if model_defence and pool is None and not isinstance(data, str):
        raise UserError(f"model_defence = '{model_defence}': give training images as pool")
    if model_defence:
        trained = load_dataset(data, "train", None) if pool is None else pool
        model = workshop.protect(model, model_defence, trained, seed)
    options = {"examples": examples, "seed": seed, "name": text, "pool": pool, "runtime": runtime}
    chosen = attacks(attack, model.rejects, checks)
    methods = [{"attack": it, "budget": budget, "model_defence": model_defence} for it in chosen]
    return evaluation([_run(method, model, data, **options) for method in methods])


def protect(model: Classifier | str, model_defence: str, data: Dataset | str, *, seed: int = 0) -> Classifier:
    """What a model defence, e.g. "jpeg(75)", makes of a trained model.

    model: a Classifier, or the name of a trained one. data: training images, for defences that have to be fitted: a
    Dataset, or a call string (its training split). Raises UserError for unknown names and wrong arguments.
    """
    canonical("model_defence", model_defence)
    data = load_dataset(data, "train", None) if isinstance(data, str) else data
    return workshop.protect(_model(model, None)[0], model_defence, data, seed)


def _run(method: dict[str, str], model, data, *, examples, seed, name, pool, runtime, watched=None) -> Record:
    """The record of one attack or certifier, and budget, on things that may be made already."""
    template = make_cell(model="mlp", dataset="fashion_mnist_mini", **method, examples=examples, seed=seed)
    model, model_text = _model(model, name)
    given, (data, data_text) = data, _data(data, examples)
    check(model, data)
    cell = Cell(**template.model_dump() | {"model": model_text, "dataset": data_text, "defence": "", "recipe": ""})
    if pool is None and isinstance(given, str):
        pool = training_images(cell, data)
    return run_cell(cell, model, data, pool=pool, watched=watched, runtime=runtime)[0]


def _model(model: Classifier | str, name: str | None) -> tuple[Classifier, str]:
    if isinstance(model, str):
        kind = kind_of_model(model)
        return load_model(model), canonical(kind, model) if kind else model
    return model, name or zoo.name_of(model) or "classifier"


def _data(data: Dataset | str, examples: int | None) -> tuple[Dataset, str]:
    if isinstance(data, str):
        return load_dataset(data, "test", examples), canonical("dataset", data)
    data = checks.dataset(data.x, data.y, data.classes, data.name).take(examples)
    try:
        return data, canonical("dataset", data.name)
    except UserError:
        return data, data.name
