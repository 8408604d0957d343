from itertools import zip_longest

import pytest
import torch

from trust_exp.data.augment import Augment
from trust_exp.data.batch import Arrays, Batch
from trust_exp.data.config import AugmentConfig
from trust_exp.data.loader import ArrayLoader
from trust_exp.errors import UserError
from trust_exp.rng import keyed_generator

N = 103
EVERYTHING = Augment(AugmentConfig(pad=1, flip=True, jitter=0.25, rotate=10.0))


@pytest.fixture
def arrays():
    generator = keyed_generator("arrays")
    images = torch.randint(0, 256, (N, 3, 6, 6), generator=generator, dtype=torch.uint8)
    return Arrays(images, torch.randint(0, 10, (N,), generator=generator))


def training(arrays, position=0, batch_size=20, **options):
    """A loader that resumed at ``position`` and whose position then follows the batches taken from it."""
    return Steps(lambda at: ArrayLoader(arrays, batch_size, position=at, **options), position)


class Steps:
    def __init__(self, build, position):
        self.step = position
        self.loader = build(lambda: self.step)

    def take(self, count):
        batches = []
        while len(batches) < count:
            for batch in self.loader:
                self.step += 1
                batches.append(batch)
                if len(batches) == count:
                    break
        return batches


def assert_equal(batches, expected):
    for batch, other in zip_longest(batches, expected):
        assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))


def test_evaluation_serves_every_sample_once_in_order(arrays):
    loader = ArrayLoader(arrays, 20)
    batches = list(loader)
    assert [len(batch.label) for batch in batches] == [20] * 5 + [3]
    assert len(loader) == len(batches)
    whole = Batch(*map(torch.cat, zip(*batches, strict=True)))
    assert torch.equal(whole.index, torch.arange(N))
    assert torch.equal(whole.label, arrays.labels)
    assert torch.equal(whole.image, arrays.images.float() / 255)


def test_types_and_range(arrays):
    for batch in (next(iter(ArrayLoader(arrays, 20))), training(arrays, augment=EVERYTHING).take(1)[0]):
        assert (batch.image.dtype, batch.label.dtype, batch.index.dtype) == (torch.float32, torch.int64, torch.int64)
        assert 0 <= batch.image.min() <= batch.image.max() <= 1


def test_points_come_as_they_are_and_as_copies():
    arrays = Arrays(torch.randn(10, 2, generator=keyed_generator("points")), torch.zeros(10, dtype=torch.int64))
    before = arrays.images.clone()
    for batch in ArrayLoader(arrays, 4):
        assert torch.equal(batch.image, before[batch.index])
        batch.image.zero_()
    assert torch.equal(arrays.images, before)


def test_an_epoch_is_a_permutation_without_its_incomplete_last_batch(arrays):
    steps = training(arrays)
    epochs = [torch.cat([batch.index for batch in steps.take(5)]) for _ in range(3)]
    assert len(steps.loader) == 5
    for index in epochs:
        assert len(index.unique()) == 100
    assert not torch.equal(epochs[0], epochs[1])
    for batch in steps.take(5):
        assert torch.equal(batch.image, arrays.images[batch.index].float() / 255)
        assert torch.equal(batch.label, arrays.labels[batch.index])


def test_a_set_smaller_than_a_batch_is_one_batch(arrays):
    loader = ArrayLoader(arrays, 500, position=lambda: 0)
    assert len(loader) == 1
    assert next(iter(loader)).index.sort().values.tolist() == list(range(N))


def test_same_seed_same_batches_other_seed_other_batches(arrays):
    first, second, other = (training(arrays, seed=seed, augment=EVERYTHING).take(7) for seed in (0, 0, 1))
    assert_equal(first, second)
    assert not torch.equal(first[0].index, other[0].index)


@pytest.mark.parametrize("position", range(12))
def test_resume_at_any_step_continues_the_same_batches(arrays, position):
    uninterrupted = training(arrays, augment=EVERYTHING).take(14)
    assert_equal(training(arrays, position, augment=EVERYTHING).take(14 - position), uninterrupted[position:])


def test_position_is_asked_when_the_first_batch_is(arrays):
    position = 0
    iterator = iter(ArrayLoader(arrays, 20, position=lambda: position))
    position = 3  # as when a checkpoint is restored between building the iterator and the first step
    assert len(list(iterator)) == 2


@pytest.mark.parametrize("world", [2, 4, 5])
def test_training_shares_of_all_processes_are_the_batch_of_one(arrays, world):
    single = training(arrays, augment=EVERYTHING).take(7)
    shares = [training(arrays, rank=rank, world=world, augment=EVERYTHING).take(7) for rank in range(world)]
    joined = [Batch(*map(torch.cat, zip(*parts, strict=True))) for parts in zip(*shares, strict=True)]
    assert_equal(joined, single)


@pytest.mark.parametrize("world", [2, 4, 8])
def test_evaluation_batches_go_round_robin(arrays, world):
    single = list(ArrayLoader(arrays, 20))
    loaders = [ArrayLoader(arrays, 20, rank=rank, world=world) for rank in range(world)]
    for rank, loader in enumerate(loaders):
        nothing = [Batch(*(part[:0] for part in single[0]))]  # one empty batch, where there are too few
        own = single[rank::world] or nothing
        assert_equal(list(loader), own)
        assert len(loader) == len(own)


def test_a_batch_that_cannot_be_shared_is_refused(arrays):
    message = (
        "^a training batch of 20 samples cannot be shared equally by 3 processes; "
        "choose dataset.batch_size as a multiple of 3$"
    )
    with pytest.raises(UserError, match=message):
        ArrayLoader(arrays, 20, position=lambda: 0, world=3)


def test_an_empty_batch_is_refused(arrays):
    with pytest.raises(UserError, match=r"^a batch size must be at least 1; got 0$"):
        ArrayLoader(arrays, 0)
