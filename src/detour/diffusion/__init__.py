"""Tier 1, the mathematics: noise schedules, forward process, objectives, guidance. Small pure functions."""
