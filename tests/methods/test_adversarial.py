"""Training of the adversarial methods: what is attacked, what the loss is, and that a resume changes nothing."""

import json
import math
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trust_exp import engine
from trust_exp.attacks.arguments import Threat
from trust_exp.attacks.ball import Ball
from trust_exp.attacks.projected_gradient import pgd
from trust_exp.build import build
from trust_exp.data.batch import Batch
from trust_exp.data.digits import Digits
from trust_exp.data.module import ArrayDataModule
from trust_exp.errors import UserError
from trust_exp.identity import run_id
from trust_exp.job import Job
from trust_exp.messages import RunFailed
from trust_exp.methods.adversarial import module, stopping
from trust_exp.methods.adversarial.config import MonitorConfig, StoppingConfig
from trust_exp.methods.adversarial.module import AdversarialTraining
from trust_exp.methods.adversarial.overfitting import OverfittingAlarm
from trust_exp.runs import open_run

BATCH = 64


def make(config, seed: int = 0) -> tuple[AdversarialTraining, ArrayDataModule]:
    L.seed_everything(seed, verbose=False)
    data = build(config["dataset"], name="digits", root="unused", seed=seed)
    model = build(config["model"], shape=data.info.shape, classes=len(data.info.classes))
    return build(config["method"], model=model, info=data.info, log_every=1), data


@pytest.fixture
def fit(quiet_trainer):
    """Some steps of training by a configuration; the method afterwards."""

    def train(config, steps: int) -> AdversarialTraining:
        method, data = make(config)
        quiet_trainer(max_steps=steps).fit(method, datamodule=data)
        return method

    return train


@pytest.fixture
def config(composed):
    """A configuration on digits of a method and further overrides."""
    return lambda *given: composed("dataset=digits", f"dataset.batch_size={BATCH}", *given)


# --- a step -----------------------------------------------------------------------------------------------------------


def test_only_samples_of_a_are_attacked(config, fit, monkeypatch):
    attacked, steps = [], []

    def spy(model, x, y, epsilon, **options):
        attacked.append((x.clone(), y.clone()))
        found = pgd(model, x, y, epsilon, **options)
        assert Ball.around(x, epsilon, norm="L2", domain=(0, 1)).contains(found).all()
        return found

    def outcome(self, batch, rows, x):
        steps.append((batch, rows, x))
        return whole(self, batch, rows, x)

    whole = AdversarialTraining.losses_of
    monkeypatch.setattr(module, "pgd", spy)
    monkeypatch.setattr(AdversarialTraining, "losses_of", outcome)
    method = fit(config("method=sat", "method.subset.fraction=0.2"), 6)
    assert method.subset is not None
    in_a = set(method.subset.index.tolist())
    assert len(in_a) == round(0.2 * 1438)
    for (x, y), (batch, rows, x_adv) in zip(attacked, steps, strict=True):
        assert rows.tolist() == [row for row, index in enumerate(batch.index.tolist()) if index in in_a]
        assert torch.equal(x, batch.image[rows])
        assert torch.equal(y, batch.label[rows])
        assert (x_adv - x).flatten(1).norm(dim=1).max() > 0.4
        served = method.data.samples("train", batch.index)
        assert torch.equal(batch.image, served.image), "the others are served as they are"
    assert 0 < sum(len(x) for x, _ in attacked) < 6 * BATCH / 2


def test_a_batch_without_samples_of_a_is_an_ordinary_step(config, fit, monkeypatch):
    monkeypatch.setattr(module, "pgd", lambda *_, **__: pytest.fail("there is nothing to attack"))
    monkeypatch.setattr(module, "rows_in", lambda lookup, index: torch.arange(0))
    method = fit(config("method=sat", "method.subset.classes=[3]"), 3)
    plain = fit(config("method=standard", "model.activation=relu", *optimizer(method)), 3)
    for one, other in zip(method.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def optimizer(method: AdversarialTraining) -> list[str]:
    return [f"method.optimizer.{key}={value}" for key, value in method.optimizer.items()]


@pytest.mark.parametrize("weights", ["vanilla", "balanced", "increasing"])
def test_the_loss_is_that_of_the_mixed_batch(config, fit, weights, monkeypatch):
    seen = []
    step = AdversarialTraining.training_step

    def spy(self, batch, number):
        before = {name: value.clone() for name, value in self.model.state_dict().items()}
        seen.append((before, batch, step(self, batch, number)))
        return seen[-1][-1]

    perturbed = lambda model, x, y, *_, **__: (x + 0.1).clamp(max=1)  # noqa: E731
    monkeypatch.setattr(module, "pgd", perturbed)
    monkeypatch.setattr(AdversarialTraining, "training_step", spy)
    given = config("method=sat", "method.subset.classes=[3,8]", f"method.weights={weights}")
    method = fit(given, 2)
    slow, _ = make(given)
    label = method.data.labels("train")
    a = int(((label == 3) | (label == 8)).sum())
    b = len(label) - a
    weight = {"vanilla": 1, "balanced": b / a, "increasing": (1 + 10 * a / (a + b)) * b / a}[weights]
    for before, batch, loss in seen:
        slow.model.load_state_dict(before)
        total, norm = 0.0, 0.0
        for image, y in zip(batch.image, batch.label, strict=True):
            hard = int(y) in (3, 8)
            logits = slow.model((image + 0.1).clamp(max=1)[None] if hard else image[None])
            w = weight if hard else 1
            total += w * F.cross_entropy(logits, y[None]).item()
            norm += w
        assert loss.item() == pytest.approx(total / norm, rel=1e-5)
    assert method.facts()["attacked_classes"] == ["3", "8"]
    assert method.facts()["attacked_weight"] == pytest.approx(weight)


@pytest.mark.parametrize("norm", ["split", "joint"])
def test_trades_is_its_formula(config, fit, norm, monkeypatch):
    seen = []
    step = AdversarialTraining.training_step

    def spy(self, batch, number):
        before = {name: value.clone() for name, value in self.model.state_dict().items()}
        seen.append((before, batch, step(self, batch, number)))
        return seen[-1][-1]

    monkeypatch.setattr(module, "trades_attack", lambda model, x, *_, **__: (x + 0.1).clamp(max=1))
    monkeypatch.setattr(AdversarialTraining, "training_step", spy)
    given = config("method=trades", "method.beta=4", "method.subset.classes=[3,8]", f"method.batch_norm={norm}")
    fit(given, 2)
    slow, _ = make(given)
    for before, batch, loss in seen:
        slow.model.load_state_dict(before)
        total = 0.0
        for image, y in zip(batch.image, batch.label, strict=True):
            clean = slow.model(image[None])
            total += F.cross_entropy(clean, y[None]).item()
            if int(y) in (3, 8):
                p = clean.softmax(1)[0].tolist()
                q = slow.model((image + 0.1).clamp(max=1)[None]).softmax(1)[0].tolist()
                total += 4 * sum(u * (math.log(u) - math.log(v)) for u, v in zip(p, q, strict=True))
        assert loss.item() == pytest.approx(total / BATCH, rel=1e-4)


@pytest.mark.parametrize("name", ["sat", "trades", "fast_at"])
def test_an_attack_leaves_batch_norm_and_gradients_alone(config, name):
    method, data = make(config(f"method={name}"))
    method.model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    method.model[2].eval()  # as a part that is frozen
    batch = data.samples("train", torch.arange(8))
    before = {key: value.clone() for key, value in method.model.state_dict().items()}
    method.perturb(batch.image, batch.label, torch.Generator().manual_seed(0))
    assert all(torch.equal(value, before[key]) for key, value in method.model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in method.model.parameters())
    assert [part.training for part in method.model] == [True, True, False, True, True]


# --- whole runs -------------------------------------------------------------------------------------------------------


def run(config, folder) -> Job:
    job = Job(config, open_run(config, folder, []), [])
    engine.execute_and_record(job)
    return job


def weights(job: Job) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(job.run.weights, weights_only=True)["state_dict"]
    return state


def result(job: Job) -> dict:
    return json.loads(job.run.result.read_text())


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def interrupted(config, folder, step: int, monkeypatch) -> None:
    """A run that was killed within a step, and saved before it."""
    whole = AdversarialTraining.training_step

    def breaking(self, batch, number):
        if self.global_step == step:
            raise MemoryError("killed")
        return whole(self, batch, number)

    job = Job(config, open_run(config, folder, []), [])
    with monkeypatch.context() as patch:
        patch.setattr(AdversarialTraining, "training_step", breaking)
        with pytest.raises(RunFailed, match="killed"):
            engine.execute_and_record(job)
    assert job.run.checkpoint.exists()


QUICK = ["size=smoke", "eval=[clean]", "fit.steps=20", "fit.checkpoint_seconds=0", "method.optimizer.milestones=[]"]
STOPPING = "method.stopping={samples: 20, at: [0.25, 0.5, 1.0]}"


@pytest.mark.parametrize(
    "given",
    [
        ["method=sat", "method.subset.fraction=0.3", "method.attack.random_start=true", STOPPING],
        pytest.param(
            [
                "method=trades",
                "method.subset.by=class",
                "method.subset.count=4",
                "method.ensembling={start: 0, end: 0.6}",
            ],
            marks=pytest.mark.slow,
        ),
        pytest.param(["method=fast_at", "method.monitor.every=3"], marks=pytest.mark.slow),
    ],
    ids=["sat", "trades", "fast_at"],
)
def test_a_run_that_was_killed_ends_with_the_same_weights(config, given, tmp_path, monkeypatch, quick_autoattack):
    made = config(*given, *QUICK)
    through = run(made, tmp_path / "through")
    interrupted(made, tmp_path / "killed", 10, monkeypatch)  # step 10 is one to stop at: saved, and not looked at yet
    again = run(made, tmp_path / "killed")
    assert_same(weights(through), weights(again))
    assert result(again)["facts"] == result(through)["facts"]


def test_an_index_file_is_known_by_its_numbers(config, tmp_path, monkeypatch):
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("\n".join(map(str, range(50))))
    given = ("method=sat", *QUICK, f"method.subset.index_file={tmp_path}")
    made = config(*given[:-1], f"{given[-1]}/chosen.txt")
    assert run_id(made) == run_id(config(*given[:-1], f"{given[-1]}/../{tmp_path.name}/chosen.txt"))
    interrupted(made, tmp_path / "run", 5, monkeypatch)
    chosen.write_text("\n".join(map(str, range(49))))
    assert run_id(made) != run_id(config(*given[:-1], f"{given[-1]}/chosen.txt"))
    with pytest.raises(UserError, match=r"chosen\.txt is another one than when the run began"):
        run(made, tmp_path / "run")


def scripted(*robust: int):
    """An AutoAttack that finds so many robust images, check after check."""
    left = list(robust)

    def attack(model, x, y, *_, **__):
        return SimpleNamespace(robust=torch.arange(len(x)) < left.pop(0))

    return attack


@pytest.fixture
def quick_autoattack(monkeypatch):
    """In the place of AutoAttack what depends on the weights as well, in no time."""

    def attack(model, x, y, *_, **__):
        with torch.no_grad():
            return SimpleNamespace(robust=model(x).argmax(1) == y)

    monkeypatch.setattr(stopping, "autoattack", attack)


def test_the_weights_of_the_best_check_are_kept(config, tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "autoattack", scripted(3, 9, 5))
    kept = run(config("method=sat", *QUICK, STOPPING), tmp_path / "kept")
    monkeypatch.setattr(stopping, "autoattack", scripted())
    until = run(config("method=sat", *QUICK, "fit.steps=10"), tmp_path / "until")
    assert_same(weights(kept), weights(until))
    facts = result(kept)["facts"]
    assert facts["stopping_accuracy"] == {"5": 0.15, "10": 0.45, "20": 0.25}
    assert facts["stopping_step"] == 10


def test_a_best_check_survives_an_interrupt(config, tmp_path, monkeypatch):
    made = config("method=sat", *QUICK, STOPPING)
    monkeypatch.setattr(stopping, "autoattack", scripted(9, 3, 5))
    through = run(made, tmp_path / "through")
    monkeypatch.setattr(stopping, "autoattack", scripted(9))
    interrupted(made, tmp_path / "killed", 8, monkeypatch)
    monkeypatch.setattr(stopping, "autoattack", scripted(3, 5))
    again = run(made, tmp_path / "killed")
    assert_same(weights(through), weights(again))
    assert result(again)["facts"]["stopping_step"] == 5


def test_the_last_check_is_made_when_a_run_stopped_after_its_last_step(config, tmp_path, monkeypatch, quick_autoattack):
    made = config("method=sat", *QUICK, STOPPING)
    through = run(made, tmp_path / "through")
    job = Job(made, open_run(made, tmp_path / "run", []), [])
    with monkeypatch.context() as patch:
        patch.setattr(stopping.EarlyStopping, "on_train_end", lambda *_: 1 / 0)
        with pytest.raises(RunFailed, match="ZeroDivisionError"):
            engine.execute_and_record(job)
    again = run(made, tmp_path / "run")
    assert result(again)["facts"] == result(through)["facts"]
    assert set(result(again)["facts"]["stopping_accuracy"]) == {"5", "10", "20"}
    assert_same(weights(through), weights(again))


def test_rows_to_stop_on_and_the_rest_are_the_test_set(config, tmp_path):
    given = "method.stopping={samples: 5, at: [1.0]}"
    facts = result(run(config("method=sat", *QUICK, given), tmp_path / "run"))["facts"]
    assert facts["stopping_split"] == "test"
    held_out = facts["stopping_rows"]
    assert len(held_out) == len(set(held_out)) == 5
    assert 0 <= facts["stopping_accuracy"]["20"] <= 1
    rest = set(range(60)) - set(held_out)
    assert len(rest) == 55
    assert rest | set(held_out) == set(range(60))
    assert facts["attacked_samples"] == facts["training_samples"] == 200


def splits(**sizes: int) -> SimpleNamespace:
    """A data set with splits of these sizes."""
    return SimpleNamespace(name="digits", splits=tuple(sizes), size=sizes.__getitem__)


@pytest.mark.parametrize(
    ("chosen", "sizes", "split", "count"),
    [
        ("auto", {"train": 9, "test": 60}, "test", 30),
        ("auto", {"train": 9, "val": 60, "test": 60}, "val", 50),
        ("val", {"train": 9, "val": 40, "test": 60}, "val", 40),
        ("test", {"train": 9, "val": 60, "test": 200}, "test", 50),
    ],
)
def test_stopping_takes_the_validation_split_where_there_is_one(chosen, sizes, split, count):
    data, chosen = splits(**sizes), StoppingConfig(split=chosen, samples=50)
    assert stopping.split_to_stop_on(chosen.split, data) == split
    rows = stopping.rows_to_stop_on(chosen, data, split)
    assert len(rows) == len(rows.unique()) == count
    assert rows.max() < sizes[split]


@pytest.mark.parametrize(
    ("chosen", "sizes", "sentence"),
    [
        ("val", {"train": 9, "test": 60}, "dataset=digits has none; give dataset.hold_out=0.1"),
        ("auto", {"train": 9, "test": 1}, "needs at least 2 test samples"),
        ("auto", {"train": 9, "val": 0, "test": 60}, "needs at least 1 validation sample"),
    ],
)
def test_what_stopping_needs_is_named(chosen, sizes, sentence):
    data = splits(**sizes)
    with pytest.raises(UserError, match=sentence):
        stopping.rows_to_stop_on(StoppingConfig(), data, stopping.split_to_stop_on(chosen, data))


def test_a_run_stops_on_its_validation_split_and_leaves_no_test_image_out(config, tmp_path, monkeypatch):
    checked = []

    def attack(model, x, y, *_, **__):
        checked.append(x)
        return SimpleNamespace(robust=y < 5)

    held_out = Batch(torch.rand(8, 1, 8, 8), torch.arange(8), torch.arange(8))
    size, samples = Digits.size, Digits.samples
    monkeypatch.setattr(Digits, "splits", ("train", "val", "test"), raising=False)
    monkeypatch.setattr(Digits, "size", lambda data, split: 8 if split == "val" else size(data, split))
    monkeypatch.setattr(
        Digits, "samples", lambda data, split, rows: held_out if split == "val" else samples(data, split, rows)
    )
    monkeypatch.setattr(stopping, "autoattack", attack)
    facts = result(run(config("method=sat", *QUICK, "method.stopping={at: [1.0]}"), tmp_path / "run"))["facts"]
    assert [len(x) for x in checked] == [8]
    assert torch.equal(checked[0], held_out.image)
    assert facts["stopping_split"] == "val"
    assert facts["stopping_accuracy"] == {"20": 5 / 8}
    assert "stopping_rows" not in facts


def test_a_choice_of_split_changes_the_id_and_none_does_not(config):
    def named(*split: str) -> str:
        return run_id(config("method=sat", "method.stopping={" + ", ".join(["samples: 20", *split]) + "}"))

    assert named() == named("split: auto") == "63ab776502"  # as before there was a choice
    assert named("split: test") != named()


@pytest.mark.slow
def test_two_processes_weigh_and_stop_as_one_does(config, command_line, tmp_path):
    given = [
        "method=sat",
        "method.subset.fraction=0.5",  # of which the processes have unequal shares in a batch
        "method.weights=increasing",
        "method.optimizer={name: sgd, lr: 0.3, momentum: 0.9, milestones: []}",
        "method.stopping={samples: 20, batch_size: 8, at: [0.6, 1.0]}",  # two batches for one, one for the other
        "size=smoke",
        "seed=5",  # whose first look is the better one
        "fit.steps=10",  # beyond, this learning rate amplifies rounding of the mean over processes
        "eval=[]",
        "accelerator.kind=cpu",
    ]
    one = run(config(*given), tmp_path / "one")
    process = command_line("dataset=digits", f"dataset.batch_size={BATCH}", *given, "accelerator=ddp")
    assert process.returncode == 0, process.stderr
    facts, two = result(one)["facts"], command_line.result()["facts"]
    for key in ("stopping_step", "stopping_accuracy", "stopping_rows"):
        assert two[key] == facts[key], (two, facts)
    assert len(set(facts["stopping_accuracy"].values())) > 1
    assert facts["stopping_step"] < 10, "an early one, or it would show nothing"
    kept = torch.load(command_line.folder() / "weights.pt", weights_only=True)["state_dict"]
    for name, value in weights(one).items():
        torch.testing.assert_close(kept[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sat", "trades", "fast_at"])
def test_adversarial_training_withstands_what_breaks_ordinary_training(config, tmp_path, name):
    found = []
    for given in (["method=standard"], [f"method={name}", "method.epsilon=0.7"]):
        made = config(
            *given,
            "model.activation=relu",
            "fit.epochs=10",
            "dataset.limit_train=600",
            "method.optimizer={lr: 3e-3, milestones: []}",
            "eval=[clean,autoattack]",
            "eval.autoattack={epsilon: 0.7, version: fast, samples: 50}",
        )
        found.append(result(run(made, tmp_path / made["method"]["name"]))["metrics"])
    plain, robust = found
    assert robust["autoattack/accuracy"] > plain["autoattack/accuracy"] + 0.2, found
    assert robust["clean/accuracy"] > 0.85, found


# --- the alarm --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Two Gaussian clouds of unit distance and a linear network that parts them."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(128) % 2
    image = 0.05 * torch.randn(128, 2, generator=generator) + torch.stack([label - 0.5, 0 * label], 1)
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-5.0, 0], [5, 0]]))
        model.bias.zero_()
    return model, image, label


def alarm(network, epsilon: float, step_size: float) -> OverfittingAlarm:
    made = OverfittingAlarm(MonitorConfig(), epsilon, Threat(norm="L2", domain=None), step_size)
    made.begin(network[1], network[2], seed=0)
    return made


def test_the_alarm_is_raised_once_where_one_step_hides_what_several_find(network):
    blind = alarm(network, 0.8, 1e-6)  # a step that goes nowhere: random starts alone break no one
    found, first = blind.check(network[0], 10)
    assert found["fgsm_accuracy"] > 0.7
    assert found["pgd_accuracy"] < 0.1
    assert first
    assert blind.raised_at == 10
    assert not blind.check(network[0], 20)[1]
    assert blind.raised_at == 10


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_no_alarm_where_both_agree(network, epsilon):
    honest = alarm(network, epsilon, 1.25 * epsilon)
    found, first = honest.check(network[0], 10)
    assert found["pgd_accuracy"] > 0.9
    assert not first
    assert honest.raised_at == -1
    assert network[0].training, "the network is left as it was"


def test_a_run_says_that_it_overfits(config, tmp_path, capsys):
    blind = ["method.epsilon=1.0", "method.step_size=1e-6", "method.monitor.every=5", "fit.steps=60", "fit.log_every=1"]
    job = run(config("method=fast_at", "size=smoke", "eval=[clean]", *blind), tmp_path / "blind")
    assert capsys.readouterr().err.count("warning: catastrophic overfitting at step") == 1
    assert result(job)["facts"]["catastrophic_overfitting_at"] % 5 == 0
    trained = ["method.epsilon=0.3", "method.monitor.every=5", "fit.steps=60"]
    job = run(config("method=fast_at", "size=smoke", "eval=[clean]", *trained), tmp_path / "trained")
    assert "overfitting" not in capsys.readouterr().err
    assert result(job)["facts"]["catastrophic_overfitting_at"] is None


def test_an_attack_that_cannot_reach_its_radius_is_named(config, capsys):
    make(config("method=sat", "method.norm=Linf", "method.epsilon=8/255", "method.attack.steps=10"))
    assert not capsys.readouterr().err
    short = ["method.attack={steps: 10, step_size: 0.8/255, score_last: false}"]
    make(config("method=sat", "method.norm=Linf", "method.epsilon=8/255", *short))
    assert "reaches 0.02824 and not method.epsilon=0.03137" in capsys.readouterr().err


# --- what a user types ------------------------------------------------------------------------------------------------

WRONG = [
    (["method.epsilon=0"], "method.epsilon must be greater than 0; got 0"),
    (["method.norm=L1"], "method.norm must be one of L2, Linf; got 'L1'"),
    (["method.subset.fraction=0"], "method.subset.fraction must be greater than 0"),
    (["method.subset.fraction=1.5"], "at most 1; got 1.5"),
    (["method.subset.order=hardest"], "needs method.subset.ranking"),
    (["method.weights=heavy"], "method.weights must be one of vanilla, balanced, increasing"),
    (["method.attack.steps=0"], "method.attack.steps must be at least 1; got 0"),
    (["method.stopping={at: [0.5, 0.2]}"], "method.stopping.at must be fractions of the training"),
    (["method.stopping={split: train}"], "method.stopping.split must be one of auto, val, test; got 'train'"),
    (["method=trades", "method.beta=0"], "method.beta must be greater than 0; got 0"),
    (["method=fast_at", "method.monitor.steps=1"], "method.monitor.steps must be at least 2"),
]


@pytest.mark.parametrize(("given", "sentence"), WRONG, ids=[" ".join(given) for given, _ in WRONG])
def test_a_value_that_cannot_be_is_refused_before_the_run(config, given, sentence):
    with pytest.raises(UserError) as caught:
        config("method=sat", *given) if not given[0].startswith("method=") else config(*given)
    assert sentence in str(caught.value)


def test_the_eval_attacks_as_the_training_did(config):
    def attack(*given: str) -> tuple[str, float]:
        node = config("method=sat", *given)["eval"]["autoattack"]
        return node["norm"], node["epsilon"]

    assert attack("method.epsilon=0.3") == ("L2", 0.3)
    assert attack("method.norm=Linf", "method.epsilon=4/255") == ("Linf", 4 / 255)
    assert attack("method.norm=Linf", "method.epsilon=4/255", "eval.autoattack.norm=L2") == ("L2", 36 / 255)
    assert attack("eval.autoattack.norm=Linf") == ("Linf", 8 / 255)


def test_the_command_line_trains_and_says_what_is_wrong(command_line, tmp_path):
    given = ("method=sat", "dataset=digits", "size=smoke", "method.subset.classes=[3]", "eval=[clean]")
    process = command_line.here(*given)
    assert process.returncode == 0, process.stderr
    assert command_line.result()["facts"]["attacked_classes"] == ["3"]
    twice = tmp_path / "twice.txt"
    twice.write_text("4\n7\n4\n")
    process = command_line.here("method=sat", "size=smoke", f"method.subset.index_file={twice}")
    assert process.returncode == 2, process.stderr
    *before, said = process.stderr.strip().splitlines()
    assert said.startswith("error: ")
    assert "names sample 4 2 times; name each sample once" in said
    assert not [line for line in before if not line.endswith(" starts")], process.stderr
