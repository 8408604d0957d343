from dataclasses import replace

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from trust_exp.data.digits import Digits
from trust_exp.data.subset import balanced_subset, occurrence_in_class
from trust_exp.data.two_moons import TwoMoons
from trust_exp.errors import UserError
from trust_exp.rng import keyed_generator

pytestmark = [  # Lightning about its own dependency, and about a resume into the folder it came from
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
]

EVERYTHING = {"pad": 1, "flip": True, "jitter": 0.25, "rotate": 10.0}


def test_occurrence_counts_earlier_samples_of_the_class():
    labels = torch.randint(0, 7, (200,), generator=keyed_generator("labels"))
    expected = [int((labels[:i] == label).sum()) for i, label in enumerate(labels)]
    assert occurrence_in_class(labels).tolist() == expected


@pytest.mark.parametrize("limit", [1, 9, 10, 25, 100])
def test_a_limit_takes_the_first_of_every_class(limit):
    labels = torch.randint(0, 10, (400,), generator=keyed_generator("labels"))
    chosen = balanced_subset(labels, limit)
    assert len(chosen) == limit
    assert torch.equal(chosen, chosen.unique())
    counts = labels[chosen].bincount(minlength=10)
    assert counts.max() - counts.min() <= 1
    for label in range(10):
        of_class = (labels == label).nonzero().flatten()
        assert torch.equal(chosen[labels[chosen] == label], of_class[: counts[label]])


def test_a_limit_beyond_a_rare_class_is_filled_by_the_others():
    labels = torch.tensor([0, 0, 0, 0, 1, 0, 0])
    assert labels[balanced_subset(labels, 5)].bincount().tolist() == [4, 1]


def test_limits_do_not_depend_on_the_seed_and_are_at_most():
    one, other = (Digits("digits", limit_train=100, limit_test=10**6, seed=seed) for seed in (0, 1))
    assert torch.equal(one.arrays("train").images, other.arrays("train").images)
    assert one.arrays("train").labels.bincount().tolist() == [10] * 10
    assert len(one.arrays("test")) == 359
    assert torch.equal(next(iter(one.eval_loader("train"))).image[:, 0] * 255, one.arrays("train").images[:, 0])


def test_an_evaluation_may_ask_about_some_samples():
    data = Digits("digits", eval_batch_size=20)
    for rows in (torch.arange(30), torch.tensor([0, 7, 358])):
        index = torch.cat([batch.index for batch in data.eval_loader("test", rows)])
        assert torch.equal(index, rows)
    assert sum(len(batch.index) for batch in data.eval_loader("test")) == 359


def test_vectors_are_not_augmented():
    data = TwoMoons("two_moons", augment={"flip": True})
    with pytest.raises(UserError, match=r"^dataset.augment changes images; dataset=two_moons has vectors of length 2$"):
        _ = data.info


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_beyond_the_classes_is_refused_before_it_reaches_a_loss(monkeypatch, label):
    whole = Digits("digits").load("train")
    wrong = replace(whole, labels=torch.cat([whole.labels[:-1], torch.tensor([label])]))
    data = Digits("digits")
    monkeypatch.setattr(data, "load", lambda split: wrong)
    with pytest.raises(UserError, match=f"dataset=digits has the label {label}; its 10 classes are 0 to 9"):
        data.size("train")


class Recorder(L.LightningModule):
    """Keeps what it is given; its one weight is all that the trainer needs."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.tested = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch.index, batch.image))
        return self.weight * batch.image.mean()

    def test_step(self, batch, batch_idx):
        self.tested.append(batch.index)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Interruption(L.Callback):
    """Saves and stops a fit before its ``step``-th optimiser step, when its batch is already fetched."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise InterruptedError


def fit(folder, checkpoint=None, callbacks=(), **options):
    model = Recorder()
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        max_epochs=3,
        **options,
    )
    data = Digits("digits", batch_size=100, limit_train=730, augment=EVERYTHING)  # seven steps an epoch
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    return model, trainer


def assert_same(seen, expected):
    assert len(seen) == len(expected)
    for (index, image), (other_index, other_image) in zip(seen, expected, strict=True):
        assert torch.equal(index, other_index)
        assert torch.equal(image, other_image)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    model, _ = fit(tmp_path_factory.mktemp("whole"))
    assert len(model.seen) == 21
    return model.seen


@pytest.mark.parametrize("steps", [1, 3, 6, 7, 8, 14, 20])
def test_a_fit_resumed_from_a_step_sees_what_an_uninterrupted_one_sees(tmp_path, uninterrupted, steps):
    callback = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=steps, save_top_k=-1)
    fit(tmp_path, callbacks=[callback])
    resumed, trainer = fit(tmp_path, tmp_path / f"step={steps}.ckpt", [callback])
    assert trainer.global_step == 21
    assert_same(resumed.seen, uninterrupted[steps:])


@pytest.mark.parametrize("steps", [0, 1, 6, 7, 8, 14, 20])
def test_a_fit_resumed_after_an_interruption_sees_what_an_uninterrupted_one_sees(tmp_path, uninterrupted, steps):
    with pytest.raises(InterruptedError):
        fit(tmp_path, callbacks=[Interruption(steps, tmp_path / "interrupted.ckpt")])
    resumed, trainer = fit(tmp_path, tmp_path / "interrupted.ckpt")
    assert trainer.global_step == 21
    assert_same(resumed.seen, uninterrupted[steps:])


def test_accumulated_steps_take_every_batch_of_every_epoch(tmp_path, uninterrupted):
    accumulated, trainer = fit(tmp_path, accumulate_grad_batches=2)
    assert trainer.global_step == 12
    assert_same(accumulated.seen, uninterrupted)


def test_the_trainer_tests_in_index_order(tmp_path):
    model, trainer = fit(tmp_path)
    trainer.test(model, Digits("digits"), verbose=False)
    assert torch.equal(torch.cat(model.tested), torch.arange(359))
