"""Tier 3.1: judges, distances, verdicts, the files that hold them, and the pages that show them."""
