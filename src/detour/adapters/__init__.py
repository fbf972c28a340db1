"""Tier 1, the detour: targets, parameter arithmetic, attach and detach, gradient proof, weight changes."""
