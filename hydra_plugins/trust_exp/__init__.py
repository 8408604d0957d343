"""Plugins, which Hydra finds only here: the launchers, and the sources of experiments and sizes."""
