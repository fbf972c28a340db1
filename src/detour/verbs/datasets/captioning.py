"""Captions for pictures that have none, written by a BLIP model."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict

from detour.bases.hardware import pick_device
from detour.bases.hub import fetch_files
from detour.bases.names import HUB_ID
from detour.bases.quiet import quiet_libraries
from detour.data.captions import one_line, read_sidecar
from detour.data.listing import Listing
from detour.data.pictures import SUFFIXES, open_picture
from detour.errors import BaseError, DataError
from detour.files import write_text
from detour.verbs.progress import Progress, ProgressFn, silent

DEFAULT_MODEL = "Salesforce/blip-image-captioning-base"
FILES = ["*.json", "*.txt", "*.safetensors"]
BATCH = 4
MAX_TOKENS = 40


class CaptionResult(BaseModel):
    """Which captions were written, and how many were there."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    written: dict[str, str]
    """File name of the picture → its caption."""
    kept: int
    """Pictures that had a caption, which was left as it is."""

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


def caption_pictures(
    folder: Path,
    *,
    model: str = DEFAULT_MODEL,
    revision: str | None = None,
    prompt: str = "",
    device: str = "auto",
    max_megapixels: float = 100.0,
    progress: ProgressFn = silent,
) -> CaptionResult:
    """Write a ``.txt`` beside every picture of a folder that has no caption; those that are there stay.

    A picture is done when its file is written, so an interrupted call goes on where it was.

    Args:
        folder: pictures; folders inside are not entered.
        model: a hub id or a folder of a BLIP captioning model, safetensors only.
        revision: of a hub id.
        prompt: words that each caption begins with, e.g. ``a drawing of``.
        device: where it runs.
        max_megapixels: larger pictures are refused.
        progress: told of every picture.

    Raises:
        DataError: no folder, no pictures, or one that cannot be read.
        BaseError: the model is not there or is no BLIP.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of pictures.")
    listing = Listing.of(folder)
    pictures = listing.pictures
    if not pictures:
        raise DataError(f"{folder}: no pictures ({', '.join(SUFFIXES)}) in it.")
    wanting = [path for path in pictures if read_sidecar(path, listing) is None]
    stems = Counter(path.stem.lower() for path in pictures)  # 1.png and 1.jpg must not share 1.txt
    written: dict[str, str] = {}
    if wanting:
        progress(Progress(stage="loading the captioning model"))
        describe = _Describer(model, revision, pick_device(device), prompt)
        for some in _batches(wanting):
            images = [open_picture(path, max_megapixels=max_megapixels) for path in some]
            for path, caption in zip(some, describe(images), strict=True):
                alone = stems[path.stem.lower()] == 1
                place = path.with_suffix(".txt") if alone else path.with_name(f"{path.name}.txt")
                write_text(place, caption + "\n")
                written[path.name] = caption
            progress(Progress(stage="writing captions", done=len(written), total=len(wanting)))
    return CaptionResult(folder=folder, written=written, kept=len(pictures) - len(wanting))


class _Describer:
    """A BLIP model with its picture processor and tokenizer."""

    def __init__(self, name: str, revision: str | None, device: str, prompt: str) -> None:
        from transformers import AutoTokenizer, BlipForConditionalGeneration
        from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

        folder = _folder_of(name, revision)
        with quiet_libraries():
            try:
                self._model: Any = BlipForConditionalGeneration.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True
                )
                self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                self._processor: Any = BlipImageProcessorPil.from_pretrained(folder, local_files_only=True)
            except (OSError, ValueError, KeyError, TypeError) as error:
                first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
                raise BaseError(
                    f"captioning model '{name}' cannot be loaded ({first}). Name a BLIP model, e.g. {DEFAULT_MODEL}."
                ) from error
        self._model.to(device).eval()
        self._device, self._prompt = device, prompt

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        pixels = self._processor(images=list(images), return_tensors="pt").pixel_values.to(self._device)
        begun: dict[str, Any] = {}
        if self._prompt:
            tokens = self._tokenizer([self._prompt] * len(images), return_tensors="pt").to(self._device)
            begun = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
        ids = self._model.generate(pixel_values=pixels, max_new_tokens=MAX_TOKENS, do_sample=False, **begun)
        return [one_line(text) for text in self._tokenizer.batch_decode(ids, skip_special_tokens=True)]


def _folder_of(name: str, revision: str | None) -> Path:
    path = Path(name).expanduser()
    folder = path if path.is_dir() else None
    if folder is None and HUB_ID.match(name):
        folder = fetch_files(name, revision, FILES, [], what="captioning model")
    if folder is None:
        raise BaseError(f"captioning model '{name}' is no folder here and no hub id (owner/name).")
    return folder


def _batches(paths: Sequence[Path]) -> Iterator[Sequence[Path]]:
    for start in range(0, len(paths), BATCH):
        yield paths[start : start + BATCH]
