"""Repairing a training script as it stands."""
