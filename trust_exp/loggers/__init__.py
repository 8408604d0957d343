"""Loggers of learning curves and results, in addition to result.json; none may fail or delay a run."""
