"""Tier 4.7: lessons as notebooks, what checks their answers, and what builds and runs them.

A notebook imports from here alone: ``from detour.labs import check, compare_with, predict, show``.
"""

from detour.labs.checking import check
from detour.labs.predictions import compare_with, predict
from detour.labs.showing import show

__all__ = ["check", "compare_with", "predict", "show"]
