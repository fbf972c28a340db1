"""What every study leaves in its folder, and hands back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from detour.evaluation.pixels import Pictures
from detour.files import write_text
from detour.generation.grids import grid
from detour.generation.png import save_image
from detour.verbs.studies.engine import Cell
from detour.verbs.studies.figures import Panel, draw_panels
from detour.verbs.studies.table import Table


class StudyResult(BaseModel):
    """An experiment that is finished."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    finding: str
    """One or a few sentences."""
    table: Table
    policy: str = ""
    """Version of the safety policy; empty without one."""
    withheld: Mapping[str, int] = {}
    """Action and code of the safety policy → pictures that are grey for it, in the sheet and in all cells."""

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


def write_study(
    folder: Path,
    table: Table,
    finding: str,
    *,
    title: str,
    panels: Sequence[Panel],
    sheet: Sequence[tuple[str, Pictures]] = (),
    columns: Sequence[str] = (),
    panels_in_row: int = 3,
) -> StudyResult:
    """Write ``table.json``, ``table.csv``, ``figure.png``, ``sheet.png`` and ``finding.md`` into the folder.

    Args:
        folder: of the experiment.
        table: its figures.
        finding: what was found.
        title: above the figure.
        panels: of the figure.
        sheet: rows of pictures with their labels, equally many in each.
        columns: labels above the pictures.
        panels_in_row: of the figure.

    Raises:
        StorageError: disk full or not writable.
    """
    table.write(folder)
    draw_panels(title, panels, folder / "figure.png", columns=panels_in_row)
    if sheet:
        pictures = np.concatenate([row for _, row in sheet])
        labels = [label for label, _ in sheet]
        save_image(
            folder / "sheet.png", grid(pictures, len(sheet[0][1]), row_labels=labels, column_labels=columns)
        )
    write_text(folder / "finding.md", finding + "\n")
    return StudyResult(folder=folder, finding=finding, table=table)


def with_withheld(result: StudyResult, cells: Sequence[Cell], *, policy: str) -> StudyResult:
    """Name in a result the pictures that a safety policy withheld.

    Args:
        result: of an experiment.
        cells: all of its cells.
        policy: version of the safety policy; empty without one.
    """
    withheld = Counter(code for cell in cells for code in cell.withheld.values())
    return result.model_copy(update={"policy": policy, "withheld": dict(withheld)})
