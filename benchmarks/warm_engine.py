"""Loads a base once in the process that servers are forked from, so that no life of a killed server loads it again.

The process is single-threaded until a server is forked from it. ``DETOUR_WARM_BASE`` names the base.
"""

from __future__ import annotations

import gc
import os

from detour.bases.base import open_base
from detour.bases.hardware import set_threads
from detour.generation.engine import PictureEngine

set_threads(1)
ENGINE = PictureEngine.load(
    open_base(os.environ.get("DETOUR_WARM_BASE", "pocket")), safety=True, prompts="written"
)
gc.collect()
gc.freeze()  # a collection in a forked server would copy every page
