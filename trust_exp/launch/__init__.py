"""Sweeps: one process a job, on this machine or on a SLURM cluster."""
