"""The formulas of subset adversarial training against slow ones, and which samples a configuration chooses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trust_exp.data.digits import Digits
from trust_exp.data.ranking import ranked, write_ranking
from trust_exp.errors import UserError
from trust_exp.methods.adversarial.config import SubsetConfig
from trust_exp.methods.adversarial.core import (
    divergence,
    fixed_rows,
    has_collapsed,
    mean_loss,
    two_parts,
    weight_of_attacked,
)
from trust_exp.methods.adversarial.subset import Subset, choose, rows_in

# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tenths", "weight"), [(1, 18.0), (2, 12.0), (3, 4 * 7 / 3), (5, 6.0), (7, 8 * 3 / 7), (9, 10 / 9)]
)
def test_increasing_weights_are_those_of_the_released_configurations(tenths, weight):
    assert weight_of_attacked(5000 * tenths, 5000 * (10 - tenths), "increasing") == pytest.approx(weight)


@given(st.integers(1, 500), st.integers(1, 500))
def test_balanced_weights_give_both_parts_the_same_share(attacked, others):
    assert weight_of_attacked(attacked, others, "balanced") * attacked == pytest.approx(others)
    assert weight_of_attacked(attacked, others, "vanilla") == 1
    factor = weight_of_attacked(attacked, others, "increasing") / weight_of_attacked(attacked, others, "balanced")
    assert 1 < factor < 11


def test_where_all_are_attacked_weights_are_1():
    assert {weight_of_attacked(7, 0, scheme) for scheme in ("vanilla", "balanced", "increasing")} == {1.0}


def test_the_loss_is_the_weighted_mean():
    losses, weights = torch.rand(6, dtype=torch.float64), torch.tensor([1.0, 1, 18, 1, 18, 1], dtype=torch.float64)
    total = sum(float(weight) * float(loss) for weight, loss in zip(weights, losses, strict=True))
    assert mean_loss(losses, weights, weights.sum()).item() == pytest.approx(total / 40)
    assert mean_loss(losses, weights, 6).item() == pytest.approx(total / 6)


def test_the_divergence_is_that_of_the_softmaxes_and_has_two_gradients():
    torch.manual_seed(0)
    clean = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    attacked = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    found = divergence(clean, attacked)
    for row in range(4):
        p = [math.exp(v) / sum(math.exp(u) for u in clean[row].tolist()) for v in clean[row].tolist()]
        q = [math.exp(v) / sum(math.exp(u) for u in attacked[row].tolist()) for v in attacked[row].tolist()]
        assert found[row].item() == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    assert torch.autograd.gradcheck(divergence, (clean, attacked))
    found.sum().backward()
    assert clean.grad is not None
    assert clean.grad.abs().sum() > 0
    assert attacked.grad is not None
    assert attacked.grad.abs().sum() > 0


# --- batch norm -------------------------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 4)).double()


def test_joint_statistics_are_those_of_one_mixed_batch():
    clean, attacked = torch.rand(5, 1, 8, 8, dtype=torch.float64), 3 * torch.rand(2, 1, 8, 8, dtype=torch.float64)
    plain, model = network(), network()
    expected = plain(torch.cat([clean, attacked])).float()
    first, second = two_parts(model, clean, attacked, joint=True)
    torch.testing.assert_close(torch.cat([first, second]), expected)
    torch.testing.assert_close(model[1].running_mean, plain[1].running_mean)
    assert model[1].num_batches_tracked == 1


def test_split_statistics_are_those_of_each_part():
    clean, attacked = torch.rand(5, 1, 8, 8, dtype=torch.float64), 3 * torch.rand(2, 1, 8, 8, dtype=torch.float64)
    plain, model = network(), network()
    expected = plain(clean).float(), plain(attacked).float()
    found = two_parts(model, clean, attacked, joint=False)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(model[1].running_mean, plain[1].running_mean)
    joint = two_parts(network(), clean, attacked, joint=True)
    assert not torch.allclose(joint[0], found[0])


@pytest.mark.parametrize("joint", [True, False])
def test_a_part_may_be_empty(joint):
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    clean, attacked = two_parts(network(), x, x[:0], joint=joint)
    assert clean.shape == (5, 4)
    assert attacked.shape == (0, 4)
    clean, attacked = two_parts(network(), x[:0], x, joint=joint)
    torch.testing.assert_close(attacked, network()(x).float())
    assert clean.shape == (0, 4)


# --- which samples ----------------------------------------------------------------------------------------------------


def subset(data: Digits | None = None, **fields) -> Subset:
    return choose(SubsetConfig(**fields), data or Digits("digits"))


@pytest.fixture
def ranking(tmp_path):
    """Digits ranked by a made-up score: of example i ((7 i) mod 1000) / 1000, plus the class."""
    data = Digits("digits")
    label = data.labels("train").numpy()
    index = np.arange(len(label))
    score = index * 7 % 1000 / 1000 + label
    path = tmp_path / "run" / "rankings" / "entropy.npz"
    write_ranking(path, ranked("entropy", index, score, data.sample_facts(), "made up"))
    return path, score


def test_by_default_all_is_attacked():
    found = subset()
    assert found.index.tolist() == list(range(found.samples)) == list(range(1438))
    assert found.classes is None
    assert subset(by="class").classes == tuple("0123456789")


@pytest.mark.parametrize("order", ["hardest", "easiest"])
def test_examples_in_the_order_of_a_ranking(ranking, order):
    path, score = ranking
    expected = np.argsort(-score if order == "hardest" else score, kind="stable")[:144]
    found = subset(fraction=0.1, order=order, ranking=str(path.parent.parent))
    assert found.index.tolist() == sorted(expected.tolist())
    assert found.classes is None
    assert torch.equal(subset(count=144, order=order, ranking=str(path)).index, found.index)


def test_classes_in_the_order_of_a_ranking(ranking):
    path, _ = ranking
    assert subset(by="class", count=3, order="hardest", ranking=str(path)).classes == ("7", "8", "9")
    found = subset(by="class", fraction=0.2, order="easiest", ranking=str(path))
    assert found.classes == ("0", "1")
    label = Digits("digits").labels("train")
    assert torch.equal(found.index, (label < 2).nonzero().squeeze(1))


def test_only_what_is_served_counts(ranking):
    path, score = ranking
    data = Digits("digits", limit_train=300)
    served = data.served("train")
    found = choose(SubsetConfig(fraction=0.1, order="hardest", ranking=str(path)), data)
    assert found.samples == 300
    hardest = served[np.argsort(-score[served.numpy()], kind="stable")[:30]]
    assert found.index.tolist() == sorted(hardest.tolist())
    few = Digits("digits", classes=["3", "5", "8"])
    chosen = choose(SubsetConfig(by="class", count=1, order="hardest", ranking=str(path)), few)
    assert chosen.classes == ("8",)
    assert set(Digits("digits").labels("train")[chosen.index].tolist()) == {8}


def test_random_subsets_depend_on_the_seed_alone_and_grow():
    small, large = (subset(fraction=share).index for share in (0.1, 0.3))
    assert torch.isin(small, large).all()
    assert torch.equal(small, subset(fraction=0.1).index)
    assert not torch.equal(small, subset(Digits("digits", seed=1), fraction=0.1).index)
    assert len(large) == round(0.3 * 1438)
    one = subset(by="class", count=1).classes
    assert one is not None
    assert set(one) < set(subset(by="class", count=4).classes or ())


def test_named_classes_and_a_part_of_them():
    found = subset(classes=["3", "8"])
    label = Digits("digits").labels("train")
    assert found.classes == ("3", "8")
    assert set(label[found.index].tolist()) == {3, 8}
    part = subset(classes=["3", "8"], fraction=0.5)
    assert part.classes is None
    assert len(part.index) == round(len(found.index) / 2)
    assert torch.isin(part.index, found.index).all()
    assert len(subset(classes=["3", "8"], by="class", count=1).classes or ()) == 1


@pytest.mark.parametrize("suffix", [".npy", ".txt"])
def test_an_index_file_is_the_subset(tmp_path, suffix):
    path, numbers = tmp_path / f"chosen{suffix}", np.array([5, 1, 1437])
    np.save(path, numbers) if suffix == ".npy" else np.savetxt(path, numbers, "%d")
    assert subset(index_file=str(path)).index.tolist() == [1, 5, 1437]
    half = Digits("digits", limit_train=10)
    assert choose(SubsetConfig(index_file=str(path)), half).samples == 10


def test_the_lookup_finds_rows_by_the_index_of_a_batch():
    lookup = Subset(torch.tensor([2, 5]), 9).lookup()
    assert rows_in(lookup, torch.tensor([5, 0, 6, 2, 8, 2])).tolist() == [0, 3, 5]
    assert rows_in(lookup, torch.tensor([0, 1])).tolist() == []


def test_a_ranking_that_does_not_fit_is_refused(ranking, tmp_path):
    path, score = ranking
    facts = Digits("digits").sample_facts()
    part = tmp_path / "part.npz"
    write_ranking(part, ranked("entropy", np.arange(100), score[:100], facts, "run"))
    with pytest.raises(UserError, match="ranks 100 of 1438 samples to choose from"):
        subset(count=5, order="hardest", ranking=str(part))
    other = tmp_path / "other.npz"
    write_ranking(other, ranked("entropy", np.arange(100), score[:100], {**facts, "name": "mnist"}, "run"))
    with pytest.raises(UserError, match="made for other data: its name is 'mnist'"):
        subset(count=5, order="hardest", ranking=str(other))
    one = tmp_path / "one.npz"
    rows = np.flatnonzero(Digits("digits").labels("train").numpy() != 4)
    write_ranking(one, ranked("entropy", rows, score[rows], facts, "run"))
    with pytest.raises(UserError, match="has no sample of the class 4; take a run that was trained on all classes"):
        subset(count=5, by="class", order="hardest", ranking=str(one))
    with pytest.raises(UserError, match=r"ranking .* does not exist"):
        subset(count=5, order="hardest", ranking=str(path.parent.parent), measure="vog")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"count": 1439}, "method.subset.count=1439 is more than the 1438 samples"),
        ({"count": 11, "by": "class"}, "method.subset.count=11 is more than the 10 classes"),
        ({"fraction": 1e-4}, "of 1438 samples rounds to 0, so nothing would be attacked; choose at least 0.0007"),
        ({"fraction": 0.04, "by": "class"}, "of 10 classes rounds to 0"),
        ({"classes": ["zero"]}, "the class of dataset=digits in method.subset.classes 'zero' does not exist"),
        ({"classes": ["3", "3"]}, "names a class twice"),
        ({"classes": []}, "must name at least one class"),
        ({"fraction": 0.5, "count": 3}, "give one of method.subset.fraction and method.subset.count"),
        ({"fraction": 0.0}, "must be greater than 0 and at most 1"),
        ({"count": 0}, "must be at least 1"),
        ({"order": "hardest"}, "method.subset.order=hardest needs method.subset.ranking"),
        ({"ranking": "x.npz"}, "has no effect with method.subset.order=random"),
        ({"classes": ["12"]}, "method.subset.classes names class 12; there are 0 to 9"),
        ({"order": "hardest", "ranking": "x.npz"}, "has no effect if all samples are attacked"),
        ({"measure": "svar"}, "method.subset.measure=svar has no effect without method.subset.ranking"),
        ({"index_file": "x", "fraction": 0.5}, "leave out method.subset.fraction"),
        ({"index_file": "x", "by": "class"}, "leave out method.subset.by=class"),
        ({"index_file": "nowhere.txt"}, "method.subset.index_file=nowhere.txt"),
    ],
)
def test_a_choice_that_cannot_be_is_one_sentence(fields, sentence):
    with pytest.raises(UserError) as caught:
        subset(**fields)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_that_are_not_served_leave_nothing_to_attack(tmp_path):
    path = tmp_path / "ones.txt"
    np.savetxt(path, np.flatnonzero(Digits("digits").labels("train").numpy() == 1), "%d")
    with pytest.raises(UserError, match="dataset=digits serves no training sample of the classes 3"):
        choose(SubsetConfig(classes=["3"]), Digits("digits", index_file=str(path)))


# --- the alarm and the rows to stop on --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("single", "multi", "best", "raised"),
    [
        (0.9, 0.02, 0.5, True),  # catastrophic overfitting
        (0.9, 0.0, 0.0, True),  # from the start
        (0.3, 0.2, 0.6, True),  # robustness is lost again
        (0.6, 0.45, 0.5, False),
        (0.1, 0.04, 0.05, False),  # nothing has been learnt yet: within the noise of 128 samples
        (0.0, 0.0, 0.0, False),
    ],
)
def test_a_collapse_is_told_from_noise(single, multi, best, raised):
    assert has_collapsed(single, multi, best, 128) is raised


def test_the_rows_to_stop_on_are_the_released_ones():
    state = torch.random.get_rng_state()
    torch.manual_seed(90622)
    expected = torch.randperm(10000)[:1000].sort().values
    torch.random.set_rng_state(state)
    assert torch.equal(fixed_rows(10000, 1000, 90622), expected)
    assert torch.equal(torch.random.get_rng_state(), state)
