"""Tier 2, the highway: families and their facts, loading, text conditioning, latents."""
