"""Runs as jobs of Slurm: submitted, requeued, watched, collected."""
