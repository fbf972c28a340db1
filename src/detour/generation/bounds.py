"""Bounds of what is drawn at once, and of what is kept while something is drawn; importing them loads no torch."""

from detour.generation.widths import WIDTH_CLASSES

MAX_ROWS = 2 * WIDTH_CLASSES[-1]
"""Rows of all pictures that are begun: those of other sizes or widths need not wait until one batch is through."""

KEPT_TEXTS = 64
"""Encoded texts that are kept while pictures are drawn; most pictures share the unconditional one."""
