"""Tier 3, the proof: judge, distances, verdicts, report."""
