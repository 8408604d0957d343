"""Generated street scenes: ``drawing`` draws them, ``module`` keeps and serves them."""
