"""What a trained IP-Adapter's file does, drawn with a fresh base: nothing at strength 0, something at 1."""

from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from detour.adapter_files.reference_files import read_reference_adapter
from detour.bases.base import Base
from detour.bases.image_encoder import load_image_encoder
from detour.data.folder import Dataset
from detour.files import sha256_of, write_json
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.references import ReferenceInUse, ReferenceTool
from detour.specs.generation import PictureSpec
from detour.specs.resolved import ResolvedRun

FILE = "reference.json"


class ReferenceProof(BaseModel):
    """Pixel figures are mean absolute differences to the base on the 0-255 scale, at the same seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: int
    at_strength_0: float
    """0, or the file changes the base where it must not."""
    at_strength_1: float
    between_references: float
    """Difference that another reference makes to one prompt and seed; 0 where a run has one picture."""

    @property
    def words(self) -> str:
        """One sentence for the run's notes."""
        return (
            f"The file, read back beside a fresh base, moves pictures by {self.at_strength_1:.2f} of 255 at strength 1 "
            f"and by {self.at_strength_0:g} at 0; two references of one prompt differ by {self.between_references:.2f}."
        )


def prove_reference(
    folder: Path, file: Path, base: Base, spec: ResolvedRun, dataset: Dataset, encoder_folder: Path
) -> ReferenceProof:
    """Draw with the file that a run left, and write ``reference.json``.

    Args:
        folder: of the run.
        file: the IP-Adapter.
        base: as trained; its parts are loaded anew.
        spec: of the run.
        dataset: whose pictures are shown, each with its own caption, ``evaluate.proof_pictures`` at most.
        encoder_folder: the image encoder.
    """
    device = spec.base.device
    tool = ReferenceTool(read_reference_adapter(file), load_image_encoder(encoder_folder, device=device))
    engine = PictureEngine.load(base, device=device, dtype="fp32")
    how = PictureSpec(steps=spec.evaluate.steps)
    examples = dataset.examples[: spec.evaluate.proof_pictures]
    pictures = [
        np.asarray(one.open(max_megapixels=spec.data.max_megapixels), dtype=np.uint8) for one in examples
    ]

    def drawn(strength: float | None, shift: int = 0) -> np.ndarray:
        requests = []
        for index, example in enumerate(examples):
            shown = pictures[(index + shift) % len(pictures)]
            references = (
                () if strength is None else (ReferenceInUse(
                    tool=tool, picture=shown, sha256=str((index + shift) % len(pictures)), strength=strength
                ),)
            )  # fmt: skip
            requests.append(
                PictureRequest(prompt=example.caption, seed=spec.seed + index, how=how, references=references)
            )
        return np.asarray(engine.draw(requests).pictures, dtype=np.int16)

    with torch.no_grad():
        plain, own, other = drawn(None), drawn(1.0), drawn(1.0, shift=1)
        proof = ReferenceProof(
            pictures=len(examples),
            at_strength_0=float(np.abs(drawn(0.0) - plain).mean()),
            at_strength_1=float(np.abs(own - plain).mean()),
            between_references=float(np.abs(own - other).mean()),
        )
    write_json(folder / FILE, {**proof.model_dump(mode="json"), "sha256": sha256_of(file)})
    return proof
