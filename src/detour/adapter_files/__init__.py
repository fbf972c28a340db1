"""Tier 2, adapters on disk: one neutral in-memory adapter, one module per format."""

from detour.adapter_files.fitting import check_fits
from detour.adapter_files.limits import Limits
from detour.adapter_files.metadata import kohya_metadata
from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import write_adapter

__all__ = ["Limits", "check_fits", "kohya_metadata", "read_adapter", "write_adapter"]
