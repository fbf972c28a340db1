"""The pictures of docs/memorisation.md: curves over the threshold, and pairs on both sides of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.copies_material import Material
from detour.evaluation.copies import calibrate, find_copies
from detour.generation.grids import grid
from detour.generation.png import save_image

COPIES = ("planted", "autoencoder")
NEW = ("new renders", "base", "adapter, new prompts")
HARD = ("same words",)
SHOWN = 4
"""Number of pairs of each set on each side of the threshold."""
Groups = dict[str, list[float]]


def draw_curves(distances: dict[str, dict[str, Groups]], memorised: Mapping[str, bool], path: Path) -> str:
    """Draw recall against false alarms for each measure, averaged over the sets, and return the same as a table.

    Args:
        distances: set → measure → group → distance of each picture to its nearest training picture.
        memorised: sets whose adapter gives its pictures back, so that its pictures are no new ones.
        path: of the PNG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panes = pyplot.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    rates = np.array([0.0, 0.01, 0.05, 0.10])
    lines = [
        "| measure | new pictures: none | 1 % | 5 % | 10 % | same words: none | 1 % | 5 % | 10 % |",
        "|---" * 9 + "|",
    ]
    for measure in next(iter(distances.values())):
        cells = [measure]
        for pane, (title, negatives) in zip(
            panes, (("new pictures", NEW), ("new pictures of the same words", HARD)), strict=True
        ):
            axis = np.linspace(0, 1, 401)
            curves = [
                _recall(groups[measure], negatives, axis, memorised=memorised[name])
                for name, groups in distances.items()
            ]
            pane.plot(axis, np.mean(curves, axis=0), label=measure)
            pane.set(title=title, xlabel="share of them called copies", xlim=(-0.005, 0.2), ylim=(0, 1.02))
            at = [
                _recall(groups[measure], negatives, rates, memorised=memorised[name])
                for name, groups in distances.items()
            ]
            cells += [f"{share:.2f}" for share in np.mean(at, axis=0)]
        lines.append("| " + " | ".join(cells) + " |")
    panes[0].set_ylabel("share of planted copies found")
    panes[1].legend(loc="lower right")
    for pane in panes:
        pane.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return "\n".join(lines)


def _recall(groups: Groups, negatives: tuple[str, ...], rates: np.ndarray, *, memorised: bool) -> np.ndarray:
    """Share of the copies below the threshold at which the given share of new pictures counts as copies."""
    new = np.sort(
        np.concatenate(
            [
                groups[name]
                for name in negatives
                if name in groups and not (memorised and name.startswith("adapter"))
            ]
        )
    )
    copies = np.concatenate([groups[name] for name in COPIES])
    allowed = np.floor(rates * len(new) + 1e-9).astype(int)
    limits = np.append(new, np.inf)[allowed]
    return np.array([(copies < limit).mean() for limit in limits])


def draw_pairs(materials: Mapping[str, Material], path: Path) -> None:
    """Draw for each set the pairs nearest to the threshold on both sides, each beside its original."""
    cells, labels = [], []
    for name, material in materials.items():
        scale = calibrate(material.training)
        pictures = np.concatenate([material.new, material.again, material.twins])
        copies = find_copies(pictures, material.training, scale)
        order = np.argsort(copies.distances)
        first_above = int(copies.copied.sum())
        for side, chosen in (
            ("copies", order[max(0, first_above - SHOWN) : first_above]),
            ("not copies", order[first_above : first_above + SHOWN]),
        ):
            row = [
                picture
                for index in chosen
                for picture in (pictures[index], material.training[copies.nearest[index]])
            ]
            row += [np.full_like(pictures[0], 255)] * (2 * SHOWN - len(row))
            cells += row
            shown = ", ".join(f"{copies.distances[index]:.2f}" for index in chosen)
            labels.append(f"{name}: {side} at {scale.threshold:.2f}: {shown or 'none'}")
    sheet = grid(
        np.stack(cells), 2 * SHOWN, row_labels=labels, column_labels=["drawn", "training picture"] * SHOWN
    )
    save_image(path, sheet)
