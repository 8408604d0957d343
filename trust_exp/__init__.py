"""Train, certify, explain and audit image models: one command per experiment."""

__version__ = "0.1.0"
