"""Explanations of what a network computes, as plain functions and modules."""

from trust_exp.explain.bases import k_means, principal_directions, random_features
from trust_exp.explain.deletion import area, deletion_curves
from trust_exp.explain.factorisation import Factors, nmf, nmf_many, semi_nmf
from trust_exp.explain.nnls import encode

__all__ = [
    "Factors",
    "area",
    "deletion_curves",
    "encode",
    "k_means",
    "nmf",
    "nmf_many",
    "principal_directions",
    "random_features",
    "semi_nmf",
]
