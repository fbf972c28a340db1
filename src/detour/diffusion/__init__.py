"""Tier 1: the mathematics of diffusion as small pure functions."""
