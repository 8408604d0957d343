"""Attacks on any classifier: PGD, APGD with one radius per image, and AutoAttack with its parts."""

from trust_exp.attacks.auto_attack import AutoAttackResult, attacks_of, autoattack
from trust_exp.attacks.auto_pgd import apgd
from trust_exp.attacks.auto_pgd_released import apgd_ce, apgd_t
from trust_exp.attacks.ball import Ball
from trust_exp.attacks.fast_adaptive_boundary import fab
from trust_exp.attacks.mode import attack_mode
from trust_exp.attacks.projected_gradient import fgsm_rs, pgd, trades_attack
from trust_exp.attacks.square_attack import square

__all__ = [
    "AutoAttackResult",
    "Ball",
    "apgd",
    "apgd_ce",
    "apgd_t",
    "attack_mode",
    "attacks_of",
    "autoattack",
    "fab",
    "fgsm_rs",
    "pgd",
    "square",
    "trades_attack",
]
