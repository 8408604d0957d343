"""Lipschitz bounds of networks and the certificates that follow from them."""

from trust_exp.lipschitz.bound import RULES, Bound, Context, LipschitzBound, lipschitz_constant
from trust_exp.lipschitz.certificate import certified_radius, tightness_search
from trust_exp.lipschitz.layers import MinMax, Normalize, Residual
from trust_exp.lipschitz.norms import PowerIteration, spectral_norm_bound

__all__ = [
    "RULES",
    "Bound",
    "Context",
    "LipschitzBound",
    "MinMax",
    "Normalize",
    "PowerIteration",
    "Residual",
    "certified_radius",
    "lipschitz_constant",
    "spectral_norm_bound",
    "tightness_search",
]
