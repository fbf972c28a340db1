"""Tier 3: the training step, its loop, its state on disk and what watches it."""
