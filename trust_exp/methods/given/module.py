"""A network that is given: nothing is trained."""

from trust_exp.methods.base import Method


class Given(Method):
    """A trained network as it is; evals are asked of it."""
