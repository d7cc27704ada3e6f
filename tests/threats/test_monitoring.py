"""Monitoring as an experiment: what delay, rates and intervals are of, whom a record is about, and the log's replay."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from scipy.stats import chi2

import robustbench_jax as rb
from robustbench_jax import metrics
from robustbench_jax.bench import monitoring_table, records
from robustbench_jax.bench.cells import make_cell
from robustbench_jax.cli import main
from robustbench_jax.cli.monitor import levels, logged
from robustbench_jax.models import build_model, files
from robustbench_jax.models.features import logits_of
from robustbench_jax.registry import build
from robustbench_jax.serving.audit_log import AuditLog, kept
from robustbench_jax.streams import QueryStream, Stream
from robustbench_jax.threats import monitoring
from robustbench_jax.traffic import Monitor
from robustbench_jax.types import UserError
from tests.oracles import noise_images

KEY = jax.random.key(0)
SHAPE = (8, 8, 1)
BUDGET = build("budget", "traffic(3, 20)")


@dataclasses.dataclass(frozen=True)
class Bright(Monitor):
    """The brightness of the image; it keeps how many requests it has seen of whom."""

    registered, facts = ("monitor", "bright"), {}
    across: bool = False
    threshold: float | None = 200.0
    rate: float = 0.01

    def init(self):
        return {}

    def score(self, state, request):
        state[request.account] = state.get(request.account, 0) + 1
        return float(request.x.mean()), {"seen": dict(state)}


class Scripted(QueryStream):
    """Dark images, but for a bright one at a place of its own in each stream; a goal after 8 queries."""

    registered, facts = ("attack", "scripted"), {"threat": "monitoring", "access": "none"}
    goal = True

    def __init__(self, places, useful=None):
        self.places, self.useful = places, useful

    def record(self, key, model, data, count, queries, *, runtime=None):
        x = np.full((count, queries, *SHAPE), 10, np.uint8)
        for own, place in zip(x, self.places, strict=True):
            own[place] = 250
        useful = np.ones(queries, bool) if self.useful is None else self.useful
        return [Stream(own, np.zeros((queries, 5), np.float32), useful, 8) for own in x]


@pytest.fixture(scope="module")
def model():
    return build_model("mlp([8])", SHAPE, 5, KEY)


def run(attack, budget=BUDGET, monitor=None, model=None):
    return monitoring.run(KEY, model, noise_images(200, SHAPE), attack, budget, monitor=monitor or Bright())


def test_delay_is_the_query_that_raises_the_alarm_and_is_not_answered(model):
    """Alarms at the 5th, the 9th and at none of 20 queries; the goal is reached with the 8th."""
    useful = np.arange(20) % 2 == 0
    found = run(Scripted([4, 8, slice(0, 0)], useful), model=model)
    assert found.artefacts["alarm"].tolist() == [5, 9, 0] and found.artefacts["useful"].tolist() == [2, 4, 10]
    assert found.metrics["streams_detected"].value == pytest.approx(2 / 3) and found.metrics["streams_detected"].n == 3
    assert found.metrics["detection_delay"].value == 9 and found.metrics["detection_delay"].high is None
    assert found.metrics["queries_before_alarm"].value == pytest.approx(16 / 3)
    assert found.artefacts["unnoticed"].tolist() == [False, True, True]
    assert found.metrics["unnoticed_success"].value == pytest.approx(2 / 3)


def test_half_of_the_streams_without_alarm_have_no_median_delay(model):
    found = run(Scripted([4, slice(0, 0), slice(0, 0)]), model=model).metrics["detection_delay"]
    assert (found.value, found.low, found.high, found.n) == (None, 5, None, 3)


def test_an_attack_shared_out_is_seen_by_account_or_as_a_whole(model):
    """The 17th query is the 5th of its account; across accounts the state has seen 17, after those of a day."""
    seen = []

    class Noting(Bright):
        def score(self, state, request):
            score, evidence = super().score(state, request)
            seen.append((request.account, request.time, evidence["seen"]))
            return score, evidence

    budget = build("budget", "traffic(1, 20, accounts=4, every=60.0)")
    run(Scripted([16]), budget, Noting(), model)
    account, when, state = seen[-1]
    assert account == "attacker 0" and when == 86400 + 16 * 60 and state == {"attacker 0": 5}
    run(Scripted([16]), budget, Noting(across=True), model)
    state = seen[-1][-1]
    assert {name: state[name] for name in state if name.startswith("attacker")} == {
        "attacker 0": 5, "attacker 1": 4, "attacker 2": 4, "attacker 3": 4}  # fmt: skip
    assert sum(count for name, count in state.items() if name.startswith("user")) == 20 * 50


def test_streams_do_not_meet_one_another(model):
    """Each begins with the state after the honest day."""
    seen = []

    class Noting(Bright):
        def score(self, state, request):
            seen.append(state.get("attacker 0", 0))
            return super().score(state, request)

    run(Scripted([0, 1, 2]), monitor=Noting(across=True), model=model)
    assert seen[1000:] == [0, 0, 1, 0, 1, 2]


def test_alarms_of_honest_days_are_counted_once_while_they_go_on(model):
    """Every image is above the threshold: one alarm an account, which began the day before."""
    honest = build("attack", "honest")
    found = run(honest, build("budget", "traffic(6, 10)"), Bright(threshold=-1.0), model)
    assert found.metrics["alarmed_days"].value == 1 and found.metrics["false_alarms"].value == 0
    quiet = run(honest, build("budget", "traffic(6, 10)"), Bright(threshold=300.0), model)
    rate = quiet.metrics["false_alarms"]
    assert rate.value == 0 and rate.n == 6 and rate.high == pytest.approx(chi2.ppf(0.975, 2) / 12)
    middle = Bright(threshold=float(np.median(noise_images(200, SHAPE).x.mean((1, 2, 3)))))
    often = run(honest, build("budget", "traffic(40, 30)"), middle, model).metrics["false_alarms"]
    assert 5 < often.value < 10  # of 30 images half are above: they begin to be about 30 / 4 times


def test_a_rate_has_the_exact_interval_of_garwood():
    found = metrics.rate("false_alarms", 3, 10)
    assert (found.value, found.n) == (0.3, 10)
    assert found.low == pytest.approx(0.0619, abs=1e-4) and found.high == pytest.approx(0.8767, abs=1e-4)
    assert metrics.rate("false_alarms", 0, 0).value is None


def test_recorded_streams_may_be_given(model):
    attack, data = build("attack", "random_pixels"), noise_images(200, SHAPE)
    streams = monitoring.record(KEY, model, data, attack, BUDGET)
    monitor = build("monitor", "query_rate(threshold=9.0)")
    given = monitoring.run(KEY, model, data, attack, BUDGET, monitor=monitor, streams=streams)
    made = monitoring.run(KEY, model, data, attack, BUDGET, monitor=monitor)
    for name in ("alarm", "useful", "reached"):
        np.testing.assert_array_equal(given.artefacts[name], made.artefacts[name])
    assert given.artefacts["alarm"].tolist() == [10, 10, 10] and "unnoticed_success" not in given.metrics


CELL = {"model": "fashion_mnist/clean/standard", "dataset": "fashion_mnist_mini", "budget": "traffic(20, 300)"}


def test_a_cell_of_monitoring_has_a_monitor_and_no_other_cell_has():
    cell = make_cell(attack="natural", monitor="seat", **CELL)
    assert cell.threat == "monitoring" and cell.monitor.startswith("seat(encoder='features'")
    assert cell.id != make_cell(attack="natural", monitor="prada", **CELL).id
    with pytest.raises(UserError, match="monitor is missing: threat 'monitoring' measures one"):
        make_cell(attack="natural", **CELL)
    with pytest.raises(UserError, match="monitor = 'seat': threat 'evasion' has no use for it"):
        make_cell(attack="pgd", monitor="seat", **CELL | {"budget": "linf(0.1)"})
    with pytest.raises(UserError, match="attack 'natural' takes no budget 'linf'"):
        make_cell(attack="natural", monitor="seat", **CELL | {"budget": "linf(0.1)"})


def made_up(monitor, attack, **values):
    n, budget = values.pop("n"), values.pop("budget", "traffic(20, 300)")
    cell = make_cell(attack=attack, monitor=monitor, **CELL | {"budget": budget})
    values = {"update_ms": 0.5} | values | {"clean_accuracy": 1.0}
    value = {name: records.MetricValue(value=it, n=n, low=None, high=None) for name, it in values.items()}
    return records.Record(id=cell.id, cell=cell, metrics=value, per_example={"clean_correct": [True] * n})


def test_tables_have_a_row_an_attack_and_a_column_a_monitor():
    honest = {"budget": "traffic(200, 50)", "n": 200}
    found = [
        made_up("seat", "honest", false_alarms=0.02, alarmed_days=0.01, **honest),
        made_up("prada", "honest", false_alarms=0.0, alarmed_days=0.0, **honest),
        made_up("seat", "jacobian", n=20, streams_detected=1.0, detection_delay=99.0, queries_before_alarm=98.0),
        made_up("prada", "jacobian", n=20, streams_detected=0.25, detection_delay=None, queries_before_alarm=240.0),
        made_up("seat", "evading(square, linf(0.05))", n=20, streams_detected=0.9, detection_delay=6.0,
                queries_before_alarm=5.0, unnoticed_success=0.1),
        made_up("seat", "oars(square, linf(0.05))", n=20, streams_detected=1.0, detection_delay=6.0,
                queries_before_alarm=5.0, unnoticed_success=0.1, queries_answered=123.4, success_despite_refusals=0.2),
    ]  # fmt: skip
    costs, seen, unnoticed, refused = monitoring_table.sheets(found)
    assert refused.head == ["Attack", "seat"] and refused.rows[0][1:] == ["20.0 [5.7, 43.7] · 123"]
    assert [row[0] for row in costs.rows] == ["prada", "seat"] and "50 queries a day" in costs.note
    assert costs.rows[1][1:4] == ["0.020 [0.005, 0.051]", "1.0 [0.1, 3.6]", "0.50"]
    assert seen.head == ["Attack", "prada", "seat"] and len(seen.rows) == 3
    square, jacobian, _ = seen.rows
    assert jacobian[1:] == ["25 · – (240)", "100 · 99 (98)"] and square[1:] == ["–", "90 · 6 (5)"]
    assert unnoticed.rows[0][1:] == ["10.0 [1.2, 31.7]"]


@pytest.fixture
def place(tmp_path, monkeypatch, model):
    """Images of noise, and the model as a checkpoint."""
    monkeypatch.chdir(tmp_path)
    train, test = noise_images(300, SHAPE), noise_images(60, SHAPE, seed=1)
    np.savez("data.npz", x_train=train.x, y_train=train.y, x_test=test.x, y_test=test.y, classes=list("abcde"))
    files.save(tmp_path / "model", model, files.describe(model, "mlp([8])", SHAPE, 5))
    return tmp_path


SERVED = ("monitor", "--model", 'checkpoint("model")', "--dataset", 'npz("data.npz")')


def test_the_verb_leaves_a_record_with_its_papers(place, capsys):
    arguments = (
        "--monitor",
        "blacklight(threshold=2)",
        "--attack",
        "jacobian(20, epochs=1)",
        "--budget",
        "traffic(2, 40)",
    )
    assert main([*SERVED, *arguments, "--out", "out", "--json"]) == 0
    record = records.Record.model_validate_json(capsys.readouterr().out)
    assert {"li2022", "papernot2017"} <= set(record.papers) and record.cell.threat == "monitoring"
    assert record.metrics["streams_detected"].n == 2 and record.metrics["update_ms"].value > 0
    with np.load(place / "out" / "arrays" / f"{record.id}.npz") as stored:
        assert stored["threshold"] == 2 and len(stored["alarm"]) == 2


def test_the_function_gives_the_record_of_the_verb(place, model, capsys):
    """Of the checkpoint by its name, and of the model and the images themselves."""
    call = {"attack": "natural", "budget": "traffic(2, 30)", "monitor": "query_rate(threshold=9.0)"}
    arguments = [argument for name, value in call.items() for argument in (f"--{name}", value)]
    assert main([*SERVED, *arguments, "--json"]) == 0
    record = records.Record.model_validate_json(capsys.readouterr().out)
    named = rb.monitor('checkpoint("model")', 'npz("data.npz")', **call)
    assert named.id == record.id and named.metrics.keys() == record.metrics.keys()
    for name in record.metrics.keys() - {"update_ms"}:
        assert named.metrics[name] == record.metrics[name], name
    data, pool = noise_images(60, SHAPE, seed=1), noise_images(300, SHAPE)
    assert rb.monitor(model, data, **call, pool=pool).metrics["detection_delay"].value == 10
    with pytest.raises(UserError, match="monitor: give training images as pool"):
        rb.monitor(model, data, **call)
    with pytest.raises(UserError, match="no monitor 'seet'; did you mean 'seat'"):
        rb.monitor(model, data, **call | {"monitor": "seet"})
    with pytest.raises(UserError, match="belongs to 'evasion'; use attack"):
        rb.monitor(model, data, "pgd", "linf(0.1)", "")


@pytest.fixture
def log(place):
    """Alice asks about images of noise, Mallory about one image, changed a little each time, in batches and alone."""
    near = np.repeat(noise_images(1, SHAPE, seed=5).x, 12, 0)
    near[:, 0, 0, 0] = np.arange(12)
    with AuditLog("audit.jsonl", durable=False) as written:
        for number, image in enumerate(noise_images(10, SHAPE, seed=2).x):
            written.append("request", account="alice", input=kept(image, "full"), images=1)
            if number < 4:
                part = near[3 * number : 3 * number + 3]
                part = part if number % 2 else part / np.float32(255)
                written.append("request", account="mallory", input=kept(part, "full"), images=3)
        written.append("admin", account="root", act="restarted")
    return place / "audit.jsonl"


def test_a_log_is_replayed_and_alarms_name_accounts_and_evidence(log, capsys):
    replayed = [*SERVED, "--log", "audit.jsonl", "--monitor", "blacklight(window=6, threshold=5)"]
    assert main([*replayed, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {alarm["account"] for alarm in found} == {"mallory"} and len(found) == 7
    assert found[-1]["evidence"]["accounts"] == {"mallory": 12} and found[-1]["score"] == 12
    assert main(replayed) == 1
    said = capsys.readouterr().err
    assert "ALARM mallory: 7 alarms" in said and "alice" not in said
    assert "22 images of 2 accounts, alarms about 1" in said
    assert "): 7; first request" in said and "highest request 15, score 12" in said


def test_a_quiet_log_ends_with_zero_and_several_monitors_may_look(log, capsys):
    quiet = ("--monitor", "query_rate(threshold=50.0)", "--monitor", "prada(threshold=1.0)")
    assert main([*SERVED, "--log", "audit.jsonl", *quiet, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_damaged_log_is_not_replayed(log, capsys):
    log.write_text(log.read_text().replace("alice", "alicf", 1))
    assert main([*SERVED, "--log", "audit.jsonl", "--monitor", "seat(threshold=1.0)"]) == 2
    assert "does not verify" in capsys.readouterr().err


def test_what_a_log_lacks_is_said(place, capsys):
    with AuditLog("audit.jsonl", durable=False) as written:
        written.append("request", account="alice", input=kept(noise_images(1, SHAPE).x[0], "none"))
    assert main([*SERVED, "--log", "audit.jsonl", "--monitor", "query_rate(threshold=1.0)"]) == 2
    assert 'the input was not kept; log with the policy "full"' in capsys.readouterr().err
    with AuditLog("other.jsonl", durable=False) as written:
        written.append("request", account="alice", input=kept(np.zeros((2, 5, 5, 1), np.uint8), "full"))
    assert main([*SERVED, "--log", "other.jsonl", "--monitor", "query_rate(threshold=1.0)"]) == 2
    assert "images [5, 5, 1], not [8, 8, 1]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--monitor", "seet", "--log", "x"), "no monitor 'seet'; did you mean 'seat'"),
        (("--monitor", "seat", "--log", "x", "--attack", "natural"), "--log says what was asked; leave out --attack"),
        (("--monitor", "seat", "--log", "none.jsonl"), "none.jsonl"),
        (("--monitor", "seat"), "give --log, or an attack: the following arguments are required: --attack"),
        (("--monitor", "seat", "--monitor", "prada", "--attack", "natural", "--budget", "traffic(1, 2)"), "2 times"),
        (("--monitor", "seat", "--attack", "pgd", "--budget", "linf(0.1)"), "threat 'evasion' has no use for it"),
        (
            ("--monitor", "seat", "--attack", "natural", "--budget", "traffic(0, 9)"),
            "streams = 0 must be greater than 0",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line(place, capsys, arguments, message):
    assert main([*SERVED, *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_images_between_0_and_1_become_levels():
    x = noise_images(2, SHAPE).x
    np.testing.assert_array_equal(levels(x / np.float32(255)), x)
    assert levels(x) is x and levels(np.array([-1.0, 2.0])).tolist() == [0, 255]


def test_answers_come_with_the_requests_of_a_log(log, model):
    asked = list(logged("audit.jsonl", model, noise_images(4, SHAPE)))
    assert [request.number for request in asked] == list(range(22)) and asked[1].account == "mallory"
    times = [request.time for request in asked]
    assert times == sorted(times)
    np.testing.assert_allclose(
        np.stack([it.logits for it in asked]), logits_of(model, np.stack([it.x for it in asked])), atol=1e-5
    )


def test_answers_that_a_log_kept_are_not_asked_for_again(place, model):
    x, said = noise_images(3, SHAPE).x, np.arange(15, dtype=np.float32).reshape(3, 5)
    with AuditLog("audit.jsonl", durable=False) as written:
        written.append("request", account="alice", input=kept(x, "full"), logits=kept(said, "full"))
        written.append("request", account="alice", input=kept(x, "full"), logits=kept(said[:2], "full"))
    asked = list(logged("audit.jsonl", model, noise_images(4, SHAPE)))
    np.testing.assert_array_equal([request.logits for request in asked[:3]], said)
    np.testing.assert_allclose([request.logits for request in asked[3:]], logits_of(model, x), atol=1e-5)
