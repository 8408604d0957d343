"""Transfer to another task: what is frozen stays frozen, the head learns, and cached features change nothing else."""

import copy
import shutil
from collections import OrderedDict
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trust_exp.attacks.auto_pgd import apgd
from trust_exp.build import build
from trust_exp.data.loader import Loader
from trust_exp.engine import execute_and_record
from trust_exp.errors import UserError
from trust_exp.identity import folder_name
from trust_exp.job import Job
from trust_exp.methods.transfer.core import FeatureCache
from trust_exp.methods.transfer.module import Transfer
from trust_exp.models.frozen import Frozen, new_head, without_head
from trust_exp.networks import make_network
from trust_exp.references import at_paths
from trust_exp.rng import keyed_generator
from trust_exp.runs import Run, open_run

NETWORK = ("model=preact_resnet18", "model.widths=[4,8,8,8]")  # with batch norm
AUGMENT = ("dataset.augment.pad=1", "dataset.augment.jitter=0.2")
SMOKE = ("dataset=digits", "size=smoke", "eval=[clean]", "dataset.batch_size=48")  # 200 images: 8 fill no batch


@pytest.fixture(scope="module")
def source(composed_in, tmp_path_factory) -> Run:
    """A trained run."""
    runs = tmp_path_factory.mktemp("source")
    return trained(composed_in(runs, "method=standard", *NETWORK, *SMOKE))


def trained(config) -> Run:
    run = open_run(config, Path(config["paths"]["runs"]) / folder_name(config), [])
    execute_and_record(Job(config, run, []))
    return run


def weights(run: Run) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run.weights, weights_only=True)["state_dict"]
    return state


@pytest.fixture
def child(composed_in, source):
    """The configuration of a transfer from that run, in the same folder of runs."""
    return lambda *more: composed_in(
        source.folder.parent, "method=transfer", *SMOKE, f"source={source.id}", "method.optimizer.lr=0.05", *more
    )


def make(config) -> tuple[Transfer, L.LightningDataModule]:
    L.seed_everything(config["seed"], verbose=False)
    data = build(config["dataset"], name="digits", root="unused", seed=config["seed"])
    model = make_network(config, data.info)
    method: Transfer = build(config["method"], model=model, info=data.info, log_every=1)
    return method, data


@pytest.fixture
def fit(quiet_trainer):
    """Some steps of training by a configuration; the method afterwards."""

    def train(config, steps: int, ckpt_path: Path | None = None) -> Transfer:
        method, data = make(config)
        trainer = quiet_trainer(max_epochs=-1, max_steps=steps)
        trainer.fit(method, datamodule=method.training_data(data), ckpt_path=ckpt_path, weights_only=True)
        return method

    return train


def head_of(method: Transfer) -> torch.Tensor:
    return nn.utils.parameters_to_vector(method.model.head.parameters()).detach()


# --- the model ------------------------------------------------------------------------------------------------------


def test_the_model_is_the_source_without_its_last_layer_and_a_new_head(source, child):
    config = child()
    model = make(config)[0].model
    whole = build(at_paths(source_config(source), "model"), shape=(1, 8, 8), classes=10)
    whole.load_state_dict(weights(source), strict=True)
    images = torch.rand(5, 1, 8, 8)
    *body, _ = whole.eval()
    assert torch.equal(model.features(images), nn.Sequential(*body)(images))
    hidden, relu, last = model.head
    assert isinstance(relu, nn.ReLU)
    assert (hidden.weight.shape, last.weight.shape) == ((8, 8), (10, 8))
    assert not any(layer.bias.any() for layer in (hidden, last))


def source_config(run: Run):
    return run.read("config.json")["config"]


def test_the_head_starts_kaiming_normal():
    torch.manual_seed(0)
    hidden, _, last = new_head(512, 100)
    for layer in (hidden, last):
        assert layer.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
        assert abs(layer.weight.mean().item()) < 0.001


def test_frozen_layers_stay_in_eval_mode_and_pass_gradients_to_their_input():
    layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten())
    frozen = Frozen(OrderedDict(layers.named_children()))
    model = nn.Sequential(frozen, nn.Linear(3 * 36, 2))
    for _ in range(2):
        model.train()
        assert model.training
        assert not any(layer.training for layer in frozen.modules())
    before = copy.deepcopy(frozen.state_dict())
    images = torch.rand(4, 1, 8, 8, requires_grad=True)
    model(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in frozen.parameters())
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())


def test_a_file_of_weights_needs_its_network_and_a_run_does_not(source, child, composed_in, tmp_path):
    file = tmp_path / "released.pt"
    shutil.copy(source.weights, file)
    common = ("method=transfer", *SMOKE)
    network = ("+model@model.network=preact_resnet18", "model.network.widths=[4,8,8,8]")
    alone = composed_in(tmp_path, *common, f"source={file}", *network)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(make(alone)[0].model.features(images), make(child())[0].model.features(images))
    torch.save(weights(source), tmp_path / "bare.pt")  # a state and nothing around it
    bare = composed_in(tmp_path, *common, f"source={tmp_path / 'bare.pt'}", *network)
    assert torch.equal(make(bare)[0].model.features(images), make(child())[0].model.features(images))
    within = composed_in(tmp_path, *common, f"source={source.weights}")  # the run's own file says it too
    assert torch.equal(make(within)[0].model.features(images), make(child())[0].model.features(images))
    with pytest.raises(UserError, match=r"does not say which network it is of: \+model@model.network=<model>"):
        make(composed_in(tmp_path, *common, f"source={file}"))
    with pytest.raises(UserError, match=r"leave out model\.network"):
        make(child(*network))
    with pytest.raises(UserError, match="the weights do not fit the network for these data"):
        make(composed_in(tmp_path, *common, f"source={file}", network[0], "model.network.widths=[4,8,8,4]"))
    file.write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be read as weights"):
        make(composed_in(tmp_path, *common, f"source={file}", *network))
    torch.save([1, 2], file)
    with pytest.raises(UserError, match="holds no state of a network"):
        make(composed_in(tmp_path, *common, f"source={file}", *network))


def test_a_source_with_other_classes_fits():
    small, large = (nn.Sequential() for _ in range(2))
    for model, classes in ((small, 3), (large, 100)):
        model.add_module("features", nn.Linear(4, 5))
        model.add_module("head", nn.Linear(5, classes))
    layers = without_head(small, large.state_dict())
    assert torch.equal(layers.features.weight, large.features.weight)
    with pytest.raises(UserError, match="must end in a child named 'head'"):
        without_head(nn.Sequential(nn.Linear(2, 2)), {})


def test_a_network_of_timm_without_a_linear_head_loses_its_classifier():
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.classifier = nn.Linear(4, 5), nn.Conv1d(5, 3, 1)

        def reset_classifier(self, _: int) -> None:
            self.classifier = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)

    whole = nn.Sequential()
    whole.add_module("network", Network())
    state = copy.deepcopy(whole.state_dict())
    layers = without_head(whole, state)
    assert set(layers.state_dict()) == {"network.body.weight", "network.body.bias"}


# --- the training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [0, 2])
def test_a_run_changes_its_head_and_not_one_bit_of_its_features(source, child, copies):
    config = child(*AUGMENT, f"method.cached_copies={copies}")
    own, theirs = weights(trained(config)), weights(source)
    frozen = {name.removeprefix("features."): value for name, value in own.items() if name.startswith("features.")}
    assert frozen.keys() == {name for name in theirs if not name.startswith("head.")}
    assert any("running_mean" in name for name in frozen)
    assert all(torch.equal(value, theirs[name]) for name, value in frozen.items())
    first = make(config)[0].model.head.state_dict()
    assert first.keys() == {name.removeprefix("head.") for name in own if name.startswith("head.")}
    assert all(not torch.equal(value, own[f"head.{name}"]) for name, value in first.items())


def test_only_the_head_is_optimised(child, fit):
    method = fit(child(), 2)
    (optimizer,) = method.trainer.optimizers
    optimised = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert optimised == {id(parameter) for parameter in method.model.head.parameters()}
    assert "train/loss" in method.trainer.callback_metrics


def test_the_training_is_that_of_a_plain_loop(child, fit):
    """Features of the images in the loaders' order, the cross-entropy, SGD with momentum and weight decay."""
    config = child("method.optimizer.milestones=[0.5]")
    fast = fit(config, 8)
    method, data = make(config)
    arrays, head = data.arrays("train"), method.model.head
    momenta = [torch.zeros_like(parameter) for parameter in head.parameters()]
    for step in range(8):
        epoch, number = divmod(step, 4)
        order = torch.randperm(200, generator=keyed_generator(0, "order", epoch))[48 * number : 48 * number + 48]
        batch = arrays.select(order).batch()
        logits = head(method.model.features(batch.image))
        loss = -logits.log_softmax(1)[torch.arange(48), batch.label].mean()
        gradients = torch.autograd.grad(loss, list(head.parameters()))
        for parameter, gradient, momentum in zip(head.parameters(), gradients, momenta, strict=True):
            momentum.mul_(0.9).add_(gradient + 5e-4 * parameter.detach())
            parameter.data -= (0.05 if step < 4 else 0.005) * momentum
    torch.testing.assert_close(head_of(fast), head_of(method), rtol=1e-4, atol=1e-5)


def test_a_model_that_is_not_frozen_is_refused(source, child):
    config = child()
    _, data = make(config)
    whole = build(source_config(source)["model"], shape=(1, 8, 8), classes=10)
    with pytest.raises(UserError, match="method=transfer trains a new head on frozen features"):
        build(config["method"], model=whole, info=data.info)


def test_the_whole_model_can_be_attacked(child):
    method, data = make(child())
    batch = data.samples("test", torch.arange(20))
    model = method.model.eval()
    attacked = apgd(model, batch.image, model(batch.image).argmax(1), 0.5, steps=5)
    found = attacked if isinstance(attacked, torch.Tensor) else attacked[0]
    assert not torch.equal(found, batch.image)


# --- cached features ------------------------------------------------------------------------------------------------


def test_cached_features_of_unchanged_images_train_the_same_head(child, fit):
    one = fit(child(), 13)
    cached = fit(child("method.cached_copies=3"), 13)
    assert cached.cached is not None
    assert cached.cached.copies == 1, "all copies would be the same"
    torch.testing.assert_close(head_of(cached), head_of(one), rtol=1e-5, atol=1e-6)


def test_as_many_copies_as_epochs_train_the_same_head(child, fit):
    one = fit(child(*AUGMENT), 12)  # three epochs
    cached = fit(child(*AUGMENT, "method.cached_copies=3"), 12)
    torch.testing.assert_close(head_of(cached), head_of(one), rtol=1e-5, atol=1e-6)
    fewer = fit(child(*AUGMENT, "method.cached_copies=2"), 12)
    assert not torch.allclose(head_of(fewer), head_of(one), rtol=1e-4, atol=1e-5), "the third epoch has old copies"
    assert torch.allclose(
        head_of(fit(child(*AUGMENT, "method.cached_copies=2"), 8)),
        head_of(fit(child(*AUGMENT), 8)),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_cached_training_that_is_resumed_ends_with_the_same_weights(child, tmp_path, fit):
    # without a decay, whose place depends on how many steps were asked for
    config = child(*AUGMENT, "method.cached_copies=2", "method.optimizer.milestones=[]")
    straight = fit(config, 14)
    half = fit(config, 9)
    half.trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = fit(config, 14, tmp_path / "half.ckpt")
    assert torch.equal(head_of(resumed), head_of(straight))


def test_each_image_is_there_though_epochs_drop_some(child):
    method, data = make(child(*AUGMENT, "method.cached_copies=1"))
    cached = method.training_data(data)
    trainer = L.Trainer(accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False)
    cached.trainer = trainer
    cached.fill(method.model.features)
    cache = cached.cache
    assert cache is not None
    arrays = data.arrays("train")
    assert cache.missing().numel() == 0
    assert torch.equal(cache.index, arrays.index)
    assert torch.equal(cache.label, arrays.labels)
    dropped = torch.randperm(200, generator=keyed_generator(0, "order", 0))[192:]
    plain = method.model.features(arrays.select(dropped).batch().image)
    torch.testing.assert_close(cache.features[0, dropped], plain)


def test_the_cache_against_dictionaries():
    generator = torch.Generator().manual_seed(0)
    cache, slow = FeatureCache(3, 6), {}
    for copy_ in range(3):
        rows = torch.randperm(6, generator=generator)[: (5, 3, 4)[copy_]]
        rows = rows[rows != 2]  # which no copy has
        features = torch.randn(len(rows), 2, generator=generator)
        cache.put(copy_, rows, features, rows * 10, rows * 100)
        slow |= {(copy_, int(row)): feature for row, feature in zip(rows, features, strict=True)}
    cache.close_gaps()
    assert cache.missing().tolist() == sorted(set(range(6)) - {row for _, row in slow})
    present = torch.tensor([row for row in range(6) if row not in cache.missing().tolist()])
    for epoch in range(5):
        features, label, index = cache.take(epoch, present)
        assert (label.tolist(), index.tolist()) == ((present * 10).tolist(), (present * 100).tolist())
        for row, feature in zip(present.tolist(), features, strict=True):
            turns = [(epoch % 3 + step) % 3 for step in range(3)]
            assert torch.equal(feature, next(slow[turn, row] for turn in turns if (turn, row) in slow))


def test_batches_of_features_are_those_of_images(child):
    """The same samples in the same order, with their labels and indices, and this process' share of them."""
    method, data = make(child("method.cached_copies=1"))
    cached = method.training_data(data)
    cached.trainer = L.Trainer(accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False)
    cached.fill(method.model.features)
    served, images = cached.train_dataloader(), data.train_dataloader()
    assert isinstance(served, Loader)
    assert len(served) == len(images) == 4
    for rank, world in ((0, 1), (1, 2)):
        served.rank = images.rank = rank
        served.world = images.world = world
        for mine, theirs in zip(served, images, strict=True):
            assert torch.equal(mine.index, theirs.index)
            assert torch.equal(mine.label, theirs.label)
            torch.testing.assert_close(mine.image, method.model.features(theirs.image))


@pytest.mark.slow
def test_four_copies_cost_less_than_two_points(composed_in, tmp_path):
    """Real digits, 24 epochs, three seeds: the mean test accuracies are within two points."""
    network = ("model=conv_2c2f", "fit.epochs=8", "eval=[clean]", "dataset=digits", "accelerator.threads=1")
    found = {}
    for copies in (0, 4):
        for seed in (0, 1, 2):
            base = composed_in(tmp_path, "method=standard", *network, "dataset.classes=[0,1,2,3,4]", f"seed={seed}")
            run = Run(tmp_path / folder_name(base))
            if not run.weights.exists():
                run = trained(base)
            own = ("dataset=digits", "fit.epochs=24", "eval=[clean]", *AUGMENT, f"method.cached_copies={copies}")
            config = composed_in(tmp_path, "method=transfer", f"source={run.id}", f"seed={seed}", *own)
            found[copies, seed] = (trained(config).read("result.json") or {})["metrics"]["clean/accuracy"]
    means = [sum(found[copies, seed] for seed in (0, 1, 2)) / 3 for copies in (0, 4)]
    assert min(means) > 0.85, found
    assert abs(means[0] - means[1]) < 0.02, found


def test_the_loss_is_the_cross_entropy(child):
    method, data = make(child())
    method.log_every = 1000
    method._trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    batch = data.samples("train", torch.arange(30))
    expected = F.cross_entropy(method.model(batch.image), batch.label)
    assert torch.equal(method.training_step(batch, 0), expected)
