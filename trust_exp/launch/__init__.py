"""Sweeps: one process per job, on this machine or on a SLURM cluster."""
