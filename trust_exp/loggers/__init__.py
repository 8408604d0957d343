"""Where learning curves and results go besides result.json; none of it may fail or delay a run."""
