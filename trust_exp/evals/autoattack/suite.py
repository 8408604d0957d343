"""Accuracy under AutoAttack, and the check that it broke no certified image."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trust_exp.attacks.auto_attack import Implementation, Version, attacks_of, autoattack
from trust_exp.attacks.ball import TOLERANCE, Norm, check_radius
from trust_exp.data.batch import Batch, DatasetInfo, Split
from trust_exp.errors import UserError
from trust_exp.evals.autoattack.classes import draw_classes, robustness_rows
from trust_exp.evals.suite import Outcomes, Report, Suite
from trust_exp.lipschitz.rounding import plain_products
from trust_exp.models.outputs import LOGITS, only
from trust_exp.results.record import Row, fraction
from trust_exp.verdicts import predicted


class AutoAttackSuite(Suite):
    """``autoattack/accuracy``, the accuracy after each attack, and the rows of classes of ``robustness_rows``.

    Misclassified images are not attacked. Images by which early stopping chose the weights are left out.
    With ``skip_certified``, images that an earlier eval certifies beyond epsilon are not attacked either; they count as
    robust.
    """

    name = "autoattack"

    def __init__(
        self,
        norm: Norm,
        epsilon: float,
        version: Version,
        steps: int,
        samples: int | None,
        batch_size: int,
        seed: int,
        implementation: Implementation,
        skip_certified: bool,
    ) -> None:
        super().__init__()
        self.norm, self.epsilon, self.version = norm, epsilon, version
        self.steps, self.samples, self.batch_size, self.seed = steps, samples, batch_size, seed
        self.asked, self.implementation = implementation, ""
        self.skip_certified = skip_certified

    def check(self, info: DatasetInfo) -> None:
        check_radius("eval.autoattack.epsilon", self.epsilon, self.norm, info.domain, info.shape)

    def prepare(self) -> None:
        if self.skip_certified and "test" not in self.context.earlier.get("certificates", {}):
            raise UserError(
                "eval.autoattack.skip_certified=true needs the certificates of this network; "
                "run eval=[certify,autoattack], certify first"
            )

    def rows(self, split: Split) -> Tensor | None:
        held_out = self.context.facts.get("stopping_rows")
        if not held_out:
            return super().rows(split)
        left = torch.arange(self.context.data.size(split))
        return left[~torch.isin(left, torch.tensor(held_out))][: self.samples]

    def step(self, batch: Batch) -> Outcomes:
        index = batch.index.cpu()
        skipped = self._certified(index) if self.skip_certified else torch.zeros_like(index, dtype=torch.bool)
        result = autoattack(
            only(self.context.model, LOGITS),
            batch.image,
            batch.label,
            self.epsilon,
            norm=self.norm,
            version=self.version,
            steps=self.steps,
            seed=self.seed,
            batch_size=len(batch.label),
            domain=self.context.info.domain,
            implementation=self.asked,
            index=index,
            skip=skipped,
        )
        self.implementation = result.implementation
        found = {
            "label": batch.label,
            "correct": result.correct,
            "survived": torch.stack(list(result.survived.values()), 1),
            "skipped": skipped & result.correct.cpu(),
        }
        if self._sees_certificates():
            with plain_products():
                still = predicted(self.context.output(LOGITS, result.x_adv)) != batch.label
            found["breaks_certificate"] = (still & ~found["survived"][:, -1]).cpu() & self._certified(index)
        return found

    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        found = outcomes["test"]
        survived, n = found["survived"], len(found["correct"])
        info = self.context.info
        attacks = attacks_of(self.version, len(info.classes), norm=self.norm, shape=info.shape)
        detail: dict[str, Any] = {
            "norm": self.norm,
            "epsilon": self.epsilon,
            "attacks": list(attacks),
            "version": self.version,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "implementation": next(name for name in self.context.gather(self.implementation) if name),
            "how": f"{self.norm} {self.epsilon:.3g}: {' + '.join(attacks)}",
        }
        if self.steps != 100:
            detail["how"] += f" of {self.steps} steps"
        if self.context.facts.get("stopping_rows"):
            detail["how"] += "; weights chosen on other test images"
        if self.skip_certified:
            detail["certified_not_attacked"] = int(found["skipped"].sum())
            detail["how"] += f"; {detail['certified_not_attacked']} certified ones not attacked"
        rows = [fraction("autoattack/accuracy", int(survived[:, -1].sum()), n, **detail)]
        for column, attack in enumerate(attacks):
            hits = int(survived[:, column].sum())
            rows.append(fraction(f"autoattack/after_{attack.replace('-', '_')}", hits, n, **{**detail, "how": ""}))
        groups = self.context.groups
        rows += robustness_rows(found, info.classes, groups) + self._broken_certificates(found)
        return Report(rows, [draw_classes(self.context, found, detail["how"])] if self.context.rank == 0 else [])

    def _certified(self, index: Tensor) -> Tensor:
        """True for test images whose certified L2 radius covers all that counts as inside the ball, bool [B]."""
        certificates = self.context.earlier["certificates"]["test"]
        covered = certificates["index"][certificates["radius"] > self.epsilon * (1 + TOLERANCE)]
        return torch.isin(index, covered)

    def _broken_certificates(self, found: Outcomes) -> list[Row]:
        """How many images were broken although their certified L2 radius covers the attack: 0, or the code is wrong.

        No row where certified images were not attacked: there is nothing that it could show.
        """
        if not self._sees_certificates():
            return []
        broken, certified = int(found["breaks_certificate"].sum()), int(self._certified(found["index"]).sum())
        return [Row("autoattack/broken_certificates", float(broken), "images", certified, detail={"how": "must be 0"})]

    def _sees_certificates(self) -> bool:
        certified = "test" in self.context.earlier.get("certificates", {})
        return certified and self.norm == "L2" and not self.skip_certified
