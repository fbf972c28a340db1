"""Tier 3, pictures out: sampling, grids, provenance in PNG files."""
