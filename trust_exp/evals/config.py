"""Settings of the evaluation suites. Imports no torch."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from trust_exp.config import late
from trust_exp.errors import UserError, check_choice, check_range

SPLITS = ("train", "test")


def check_splits(key: str, splits: list[str]) -> None:
    """Raise UserError unless ``splits`` are one or more different splits."""
    for split in splits:
        check_choice(key, split, SPLITS)
    if not splits or len(set(splits)) < len(splits):
        raise UserError(f"{key} must name one or more different splits; got {splits}")


@dataclass
class CleanConfig:
    """Accuracy on unchanged data."""

    _target_: str = "trust_exp.evals.clean.Clean"
    splits: list[str] = field(default_factory=lambda: ["test"])

    def __post_init__(self) -> None:
        check_splits("eval.clean.splits", self.splits)


@dataclass
class CertifyConfig:
    """Certified robust accuracy (CRA), the Lipschitz constant and how tight it is."""

    _target_: str = "trust_exp.evals.certify.Certify"
    splits: list[str] = field(default_factory=lambda: ["test"])
    radii: list[float] = field(default_factory=lambda: [36 / 255, 72 / 255, 108 / 255])  # L2
    per_class: bool = True
    tightness_pairs: int = 4000  # 0: no search
    tightness_steps: int = 1000

    def __post_init__(self) -> None:
        check_splits("eval.certify.splits", self.splits)
        for radius in self.radii:
            check_range("eval.certify.radii", radius, least=0)
        if len({f"{radius:.3g}" for radius in self.radii}) < len(self.radii):
            raise UserError(f"eval.certify.radii must differ in their first three digits; got {self.radii}")
        check_range("eval.certify.tightness_pairs", self.tightness_pairs, least=0)
        check_range("eval.certify.tightness_steps", self.tightness_steps, least=1)


@dataclass
class PrototypesConfig:
    """What a network's prototypes carry of its decision."""

    needs = "prototypes"  # of the method; unannotated, as it is no field

    _target_: str = "trust_exp.evals.prototypes.PrototypeSuite"
    splits: list[str] = field(default_factory=lambda: ["test"])
    pictures: int = 10  # of the first so many classes; 0: none
    classes: list[str] = late(list)  # that have pictures; none: the first ones
    images: int = 100  # of a class, that are looked through for its pictures
    deletion: int = 200  # the first so many images, whose important places are deleted and inserted; 0: none
    drop: list[str] = late(list)  # prototypes that contribute nothing, such as ship:2
    drop_in: list[int] = late(list)  # numbers of the images they do so in; none: all

    def __post_init__(self) -> None:
        if self.drop_in and not self.drop:
            raise UserError("eval.prototypes.drop_in names images; what is dropped in them says eval.prototypes.drop")
        check_splits("eval.prototypes.splits", self.splits)
        check_range("eval.prototypes.pictures", self.pictures, least=0)
        check_range("eval.prototypes.images", self.images, least=1)
        check_range("eval.prototypes.deletion", self.deletion, least=0)


@dataclass
class PatchesConfig:
    """What prototypes that are patches show of a network, beside those of NMF in its features."""

    needs = "patches"  # of the method; unannotated, as it is no field

    _target_: str = "trust_exp.evals.patches.PatchSuite"
    steps: int = 200  # of NMF, at most
    pictures: int = 10  # of the first so many classes; 0: none
    shown: int = 3  # prototypes of NMF in pictures
    deletion: int = 200  # the first so many test images, whose important places are deleted and inserted; 0: none

    def __post_init__(self) -> None:
        for key in ("steps", "shown"):
            check_range(f"eval.patches.{key}", getattr(self, key), least=1)
        for key in ("pictures", "deletion"):
            check_range(f"eval.patches.{key}", getattr(self, key), least=0)


@dataclass
class AutoAttackConfig:
    """Accuracy under AutoAttack."""

    _target_: str = "trust_exp.evals.autoattack.AutoAttackSuite"
    norm: str = "L2"
    epsilon: float = MISSING  # in the data's own units
    version: str = "standard"  # or fast: its two APGD attacks
    samples: int | None = None  # the first so many test images; None: all
    batch_size: int = 500  # it takes part in the official library's random draws
    seed: int = 0
    implementation: str = "own"  # the package's attacks, or official: the library
    skip_certified: bool = late(False)  # do not attack what an earlier eval=certify certifies beyond epsilon; L2 only

    def __post_init__(self) -> None:
        check_choice("eval.autoattack.norm", self.norm, ("L2", "Linf"))
        check_choice("eval.autoattack.version", self.version, ("standard", "fast"))
        check_range("eval.autoattack.epsilon", self.epsilon, least=0)
        check_range("eval.autoattack.samples", self.samples, least=1)
        check_range("eval.autoattack.batch_size", self.batch_size, least=1)
        check_choice("eval.autoattack.implementation", self.implementation, ("own", "official"))
        if self.skip_certified and self.norm != "L2":
            raise UserError(
                f"eval.autoattack.skip_certified=true needs eval.autoattack.norm=L2, as certificates are for L2; "
                f"got {self.norm}"
            )
