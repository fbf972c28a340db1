"""Pictures of a study's cells under a safety policy: withheld ones are not kept, figures are of what was drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from detour.evaluation.pixels import Pictures
from detour.verbs.draw.screening import Screening, greyed
from detour.verbs.studies.engine import CellStore, Measured, Variant


@dataclass(frozen=True, kw_only=True)
class ScreenedPictures:
    """Pictures that were drawn, and which of them may be shown.

    Attributes:
        pictures: uint8 (N, H, W, 3), as drawn.
        withheld: number of each picture that the policy withheld → action and code.
    """

    pictures: Pictures
    withheld: Mapping[int, str]

    @classmethod
    def of(cls, pictures: Pictures, screening: Screening) -> ScreenedPictures:
        """Let a policy look at pictures.

        Args:
            pictures: uint8 (N, H, W, 3), one of each open request of the screening.
            screening: of their requests, without a picture that was withheld before.
        """
        screening.passed_unchecked(pictures)
        return cls(
            pictures=pictures, withheld={one.number: f"{one.action} {one.code}" for one in screening.withheld}
        )

    @property
    def shown(self) -> Pictures:
        """uint8 (N, H, W, 3) with a grey field where a picture was withheld."""
        return greyed(self.pictures, [index not in self.withheld for index in range(len(self.pictures))])


@dataclass(kw_only=True)
class CellPictures:
    """Draws the pictures of cells, and gives those of earlier cells as they were drawn.

    A withheld picture is in no file. Figures that compare cells need it all the same, so it stays in memory, and is
    drawn again where an earlier call drew it.

    Attributes:
        store: of the finished cells.
        variants: of the study.
        draw_cell: draws the pictures of a variant at a seed.
    """

    store: CellStore
    variants: Sequence[Variant]
    draw_cell: Callable[[Variant, int], ScreenedPictures]
    _withheld: dict[tuple[str, int], ScreenedPictures] = field(default_factory=dict, init=False)

    def draw(self, variant: Variant, seed: int) -> Pictures:
        """Draw a cell; uint8 (N, H, W, 3), as drawn."""
        drawn = self.draw_cell(variant, seed)
        if drawn.withheld:
            self._withheld[variant.name, seed] = drawn
        return drawn.pictures

    def of(self, name: str, seed: int) -> Pictures:
        """Pictures of a finished cell, uint8 (N, H, W, 3), as drawn.

        Args:
            name: of the variant.
            seed: of the cell.
        """
        if not self.store.withheld(name, seed):
            return self.store.pictures(name, seed)
        if (name, seed) not in self._withheld:
            self.draw(next(one for one in self.variants if one.name == name), seed)
        return self._withheld[name, seed].pictures

    def measured(
        self, variant: Variant, seed: int, samples: Mapping[str, Sequence[float]], pictures: Pictures
    ) -> Measured:
        """Make the result of a cell that was just drawn: its figures, and its pictures without the withheld ones."""
        found = self._withheld.get((variant.name, seed))
        if found is None:
            return Measured(samples=samples, pictures=pictures)
        return Measured(samples=samples, pictures=found.shown, withheld=found.withheld)
