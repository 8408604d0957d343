"""Training samples ordered by difficulty, stored in a file with facts about their data. No torch."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trust_exp.data.numpy_files import load_npz
from trust_exp.data.provenance import check_same
from trust_exp.errors import UserError, quoted
from trust_exp.parsing import parse_json

FORMAT = "trust_exp ranking 1"


@dataclass(frozen=True)
class Ranking:
    """Samples of a training split, the hardest first.

    Args:
        measure: of difficulty.
        index: int64 [N], positions in the whole training split, each at most once.
        score: float64 [N], of the sample at the same place in ``index``, not increasing.
        dataset: facts about its data: their name, the number of samples of the whole split, the checksum of its
            labels, and their source.
        run: the id of the run that made it.
    """

    measure: str
    index: np.ndarray
    score: np.ndarray
    dataset: dict[str, Any]
    run: str | None = None


def ranked(
    measure: str, index: np.ndarray, score: np.ndarray, dataset: dict[str, Any], run: str | None = None
) -> Ranking:
    """The ranking of samples ``index`` (int64 [N]) by ``score`` ([N]); of equal scores the lower index comes first.

    Raises:
        ValueError: if a score is not finite.
    """
    if not np.isfinite(score).all():
        raise ValueError(f"{int((~np.isfinite(score)).sum())} scores of {measure} are not finite")
    order = np.lexsort((index, -score))
    return Ranking(measure, index[order].astype(np.int64), score[order].astype(np.float64), dataset, run)


def write_ranking(path: Path, ranking: Ranking) -> None:
    """Write a ranking as .npz by rename: two arrays and a JSON text."""
    facts = {"format": FORMAT, "measure": ranking.measure, "dataset": ranking.dataset, "run": ranking.run}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        np.savez(file, index=ranking.index, score=ranking.score, facts=np.array(json.dumps(facts)))
    part.replace(path)


def read_ranking(path: str | Path) -> Ranking:
    """The ranking in a file.

    Raises:
        UserError: if there is no such file, or it is truncated, not a ranking, or names a sample twice.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"ranking {path} does not exist; a run with method=standard and method.difficulty=[{path.stem}] writes one"
        )
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is not a ranking, or is truncated; a ranking is an .npz file that a run wrote")
    try:
        arrays = load_npz(path, "index", "score", "facts")
        facts = parse_json(str(arrays["facts"]))
        form = facts["format"]
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).replace(str(path), "it")
        raise UserError(f"{path} is not a ranking that a run wrote ({reason}); write it again") from error
    if form != FORMAT:
        raise UserError(f"{path} has the format {quoted(form)}; this version reads {FORMAT!r}")
    measure, dataset, run = (facts.get(key) for key in ("measure", "dataset", "run"))
    samples = dataset.get("samples") if isinstance(dataset, dict) else None
    if not isinstance(measure, str) or not isinstance(run, str | None) or type(samples) is not int:
        raise UserError(f"{path} is not a ranking that a run wrote (its facts are others); write it again")
    ranking = Ranking(measure, arrays["index"], arrays["score"], dataset, run)
    _check(path, ranking, samples)
    return ranking


def _check(path: Path, ranking: Ranking, samples: int) -> None:
    """Raise UserError unless each sample is there at most once, and the hardest first."""
    index, score = ranking.index, ranking.score
    if index.dtype != np.int64 or score.dtype != np.float64 or index.ndim != 1 or index.shape != score.shape:
        raise UserError(
            f"{path} is not a ranking: it needs int64 positions and as many float64 scores; "
            f"it has {index.dtype} {index.shape} and {score.dtype} {score.shape}"
        )
    if not index.size:
        raise UserError(f"{path} ranks no sample; write it again")
    if index.min() < 0 or index.max() >= samples:
        wrong = int(index.min() if index.min() < 0 else index.max())
        raise UserError(
            f"{path} ranks sample {wrong}, but its data have the samples 0 to {samples - 1}; write it again"
        )
    found, times = np.unique(index, return_counts=True)
    if times.max() > 1:
        raise UserError(f"{path} ranks sample {found[times.argmax()]} {times.max()} times; write it again")
    if not (score[:-1] >= score[1:]).all():  # also false for NaN
        raise UserError(f"{path} is not a ranking: its scores must not increase; write it again")


def check_fits(ranking: Ranking, dataset: Mapping[str, Any]) -> None:
    """Raise UserError if a ranking was made for data other than those with the facts ``dataset``.

    Compared are the name, the number of samples and the checksum of the labels of the whole training split.
    """
    check_same(
        f"the ranking by {ranking.measure} of run {ranking.run}",
        ranking.dataset,
        dataset,
        f"rank these data with method=standard method.difficulty=[{ranking.measure}]",
    )


def class_means(ranking: Ranking, labels: np.ndarray, classes: int) -> np.ndarray:
    """Mean score of each class, float64 [C]; NaN for a class of which no sample is ranked.

    Args:
        labels: int [N_split] of the whole training split; samples with a label below 0 do not count.
    """
    own = labels[ranking.index]
    served = own >= 0
    sums = np.bincount(own[served], ranking.score[served], classes)
    counts = np.bincount(own[served], minlength=classes)
    return np.divide(sums, counts, out=np.full(classes, np.nan), where=counts > 0)


def class_order(ranking: Ranking, labels: np.ndarray, names: Sequence[str], among: np.ndarray) -> np.ndarray:
    """Numbers of classes, int64 [C], by decreasing mean score; equal ones in the order of ``among``.

    Args:
        labels: see ``class_means``.
        names: of all classes.
        among: the numbers to order, int64 [C].

    Raises:
        UserError: if no sample of a class is ranked.

    Source: Losch 2024, Eq. 3.3.
    """
    means = class_means(ranking, labels, len(names))[among]
    if np.isnan(means).any():
        missing = ", ".join(names[number] for number in among[np.isnan(means)])
        raise UserError(
            f"the ranking by {ranking.measure} of run {ranking.run} has no sample of the class {missing}; take a run "
            "that was trained on all classes"
        )
    return among[np.argsort(-means, kind="stable")]
