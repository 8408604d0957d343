"""Accuracy under the official AutoAttack, and the check that it broke no certified image."""

from collections.abc import Mapping

import torch

from trust_exp.attacks.autoattack import Version, attacks_of, autoattack
from trust_exp.attacks.ball import Norm
from trust_exp.data.batch import Batch, Split
from trust_exp.evals.suite import Outcomes, Report, Suite
from trust_exp.results.record import Row, fraction


class AutoAttackSuite(Suite):
    """``autoattack/accuracy``, and what is left after each attack; images that are wrong anyway are not attacked."""

    name = "autoattack"

    def __init__(
        self, norm: Norm, epsilon: float, version: Version, samples: int | None, batch_size: int, seed: int
    ) -> None:
        super().__init__()
        self.norm, self.epsilon, self.version = norm, epsilon, version
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.implementation = ""

    def step(self, batch: Batch) -> Outcomes:
        result = autoattack(
            self.context.model,
            batch.image,
            batch.label,
            self.epsilon,
            norm=self.norm,
            version=self.version,
            seed=self.seed,
            batch_size=len(batch.label),
            domain=self.context.info.domain,
        )
        self.implementation = result.implementation
        return {"correct": result.correct, "survived": torch.stack(list(result.survived.values()), 1)}

    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        found = outcomes["test"]
        survived, n = found["survived"], len(found["correct"])
        info = self.context.info
        attacks = attacks_of(self.version, len(info.classes), norm=self.norm, shape=info.shape)
        detail = {
            "norm": self.norm,
            "epsilon": self.epsilon,
            "attacks": list(attacks),
            "version": self.version,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "implementation": next(name for name in self.context.gather(self.implementation) if name),
            "how": f"{self.norm} {self.epsilon:.3g}: {' + '.join(attacks)}",
        }
        rows = [fraction("autoattack/accuracy", int(survived[:, -1].sum()), n, **detail)]
        for column, attack in enumerate(attacks):
            hits = int(survived[:, column].sum())
            rows.append(fraction(f"autoattack/after_{attack.replace('-', '_')}", hits, n, **{**detail, "how": ""}))
        return Report(rows + self._broken_certificates(found))

    def _broken_certificates(self, found: Outcomes) -> list[Row]:
        """How many images were broken although their certified L2 radius covers the attack: 0, or the code is wrong."""
        certificates = self.context.earlier.get("certify-test")
        if certificates is None or self.norm != "L2":
            return []
        certified = certificates["radius"][found["index"]] > self.epsilon
        broken = certified & ~found["survived"][:, -1]
        detail = {"how": "must be 0"}
        return [
            Row("autoattack/broken_certificates", float(broken.sum()), "images", int(certified.sum()), detail=detail)
        ]
