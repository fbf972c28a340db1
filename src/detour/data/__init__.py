"""Tier 2, pictures and captions in, examples out."""
