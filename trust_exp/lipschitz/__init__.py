"""Lipschitz bounds of networks and the certificates that follow from them."""

from trust_exp.lipschitz.bound import RULES, Bound, Context, LipschitzBound, lipschitz_constant
from trust_exp.lipschitz.certificate import certified_radius, tightness_search
from trust_exp.lipschitz.layers import MinMax, Normalize, Residual
from trust_exp.lipschitz.norms import PowerIteration, spectral_norm_bound
from trust_exp.lipschitz.rounding import ROUNDING, Certifier, Steps, plain_products

__all__ = [
    "ROUNDING",
    "RULES",
    "Bound",
    "Certifier",
    "Context",
    "LipschitzBound",
    "MinMax",
    "Normalize",
    "PowerIteration",
    "Residual",
    "Steps",
    "certified_radius",
    "lipschitz_constant",
    "plain_products",
    "spectral_norm_bound",
    "tightness_search",
]
