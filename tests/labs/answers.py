"""What every lab's grader is tried with: a right answer to each task, and wrong ones with a word of their hint."""

from collections.abc import Sequence
from typing import Any

Wrong = tuple[Any, str]
"""(answer, a word that must be in what is wrong, why or hint)."""

Answers = dict[str, tuple[Any, Sequence[Wrong]]]
"""Task → (a right answer, wrong ones)."""

AlsoRight = dict[str, Sequence[Any]]
"""Task → right answers that are written differently: another formula, type, order or rounding."""
