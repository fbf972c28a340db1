"""Tier 3, the run: step, loop, optimizer, state, observers."""
