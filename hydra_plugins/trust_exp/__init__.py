"""What Hydra accepts only here: the launchers, and where it finds the experiments."""
