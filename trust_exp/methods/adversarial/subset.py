"""A, the training samples that are attacked, chosen by class, by example or from a file (Losch 2024, sec. 3.2.2)."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trust_exp.data.module import DataModule
from trust_exp.data.ranking import Ranking, check_fits, class_order, read_ranking
from trust_exp.data.subset import class_numbers, read_index
from trust_exp.errors import UserError
from trust_exp.methods.adversarial.config import SubsetConfig
from trust_exp.rng import keyed_generator


@dataclass(frozen=True)
class Subset:
    """The samples of A.

    Attributes:
        index: int64 [|A|], positions in the whole training split, increasing.
        samples: number of training samples served, |A| + |B|.
        classes: names of the classes, if A is exactly all samples of some classes; else None.
    """

    index: Tensor
    samples: int
    classes: tuple[str, ...] | None = None

    def lookup(self) -> Tensor:
        """Whether a sample is in A, by its position in the whole split, bool [last of A + 2]; for ``rows_in``."""
        found = torch.zeros(int(self.index.max()) + 2, dtype=torch.bool)
        found[self.index] = True
        return found

    def checksum(self) -> str:
        """Checksum of ``index``."""
        return hashlib.sha256(self.index.numpy().astype("<i8").tobytes()).hexdigest()[:16]


def rows_in(lookup: Tensor, index: Tensor) -> Tensor:
    """Rows of a batch that are in A, int64 [K], from ``Subset.lookup()`` and the batch's ``index`` (int64 [B])."""
    return lookup[index.clamp(max=len(lookup) - 1)].nonzero().squeeze(1)


def choose(config: SubsetConfig, data: DataModule) -> Subset:
    """The samples to attack among the training samples served; random orders depend on the seed of ``data``.

    In the same order, the A of a smaller fraction or count is part of the A of a larger one.

    Raises:
        UserError: if a class, a number or a ranking does not fit the data, or nothing is left to attack.
    """
    served = data.served("train").unique()
    if config.index_file is not None:
        return Subset(_listed(config.index_file, data, served), len(served))
    label = data.labels("train")[served]
    names = data.info.classes
    chosen = None if config.classes is None else _numbers(config.classes, data)
    candidates = served if chosen is None else served[torch.isin(label, chosen)]
    if config.by == "class":
        order = _class_order(config, data, label.unique() if chosen is None else chosen, candidates)
        chosen = order[: _amount(config, len(order), "classes")]
        index = served[torch.isin(label, chosen)]
    else:
        order = _example_order(config, data, candidates)
        index = order[: _amount(config, len(order), "samples")].sort().values
        if len(index) < len(candidates):
            chosen = None
    if not len(index):
        raise UserError(
            f"there is nothing to attack: dataset={data.name} serves no training sample of the classes "
            f"{', '.join(config.classes or [])}"
        )
    return Subset(index, len(served), None if chosen is None else tuple(names[number] for number in sorted(chosen)))


def _listed(path: str, data: DataModule, served: Tensor) -> Tensor:
    numbers = read_index(path, data.sample_facts(), "method.subset.index_file")
    index, times = numbers.unique(return_counts=True)
    if len(index) < len(numbers):
        repeated = int(index[times.argmax()])
        raise UserError(
            f"method.subset.index_file={path} names sample {repeated} {int(times.max())} times; name each sample once"
        )
    index = index[torch.isin(index, served)]
    if not len(index):
        raise UserError(
            f"method.subset.index_file={path} leaves nothing to attack: none of its {len(numbers)} samples is among "
            f"the {len(served)} that dataset={data.name} serves"
        )
    return index


def _numbers(classes: list[str], data: DataModule) -> Tensor:
    key = "method.subset.classes"
    return torch.tensor(class_numbers(classes, data.info.classes, f"the class of dataset={data.name} in {key}", key))


def _amount(config: SubsetConfig, size: int, what: str) -> int:
    """Number of classes or samples in A, of ``size``."""
    if config.count is not None:
        if config.count > size:
            raise UserError(f"method.subset.count={config.count} is more than the {size} {what} to choose from")
        return config.count
    amount = round(size * (1.0 if config.fraction is None else config.fraction))
    if size and not amount:
        raise UserError(
            f"method.subset.fraction={config.fraction:g} of {size} {what} rounds to 0, so nothing would be attacked; "
            f"choose at least {1 / size:.2g}"
        )
    return amount


def _example_order(config: SubsetConfig, data: DataModule, candidates: Tensor) -> Tensor:
    """Candidates in the order in which they join A, int64 [M], positions."""
    if config.order == "random":
        return candidates[torch.randperm(len(candidates), generator=keyed_generator(data.seed, "subset"))]
    ranked = torch.from_numpy(_ranking(config, data).index)
    kept = ranked[torch.isin(ranked, candidates)]
    if len(kept) < len(candidates):
        raise UserError(
            f"method.subset.ranking={config.ranking} ranks {len(kept)} of {len(candidates)} samples to choose from; "
            "choose a run that was trained on all of them"
        )
    return kept if config.order == "hardest" else kept.flip(0)


def _class_order(config: SubsetConfig, data: DataModule, classes: Tensor, candidates: Tensor) -> Tensor:
    """Classes in the order in which they join A, int64 [C], numbers."""
    classes = classes.sort().values
    if config.order == "random":
        return classes[torch.randperm(len(classes), generator=keyed_generator(data.seed, "subset"))]
    label = torch.full_like(data.labels("train"), -1)
    label[candidates] = data.labels("train")[candidates]  # of the samples served
    order = torch.from_numpy(class_order(_ranking(config, data), label.numpy(), data.info.classes, classes.numpy()))
    return order if config.order == "hardest" else order.flip(0)


def _ranking(config: SubsetConfig, data: DataModule) -> Ranking:
    path = Path(str(config.ranking))
    ranking = read_ranking(path / "rankings" / f"{config.measure}.npz" if path.is_dir() else path)
    check_fits(ranking, data.sample_facts())
    return ranking
