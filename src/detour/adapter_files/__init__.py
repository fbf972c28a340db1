"""Tier 2, adapters on disk: one neutral in-memory adapter, one module per format."""
