"""A CLIP model that scores pictures by their content and by their style."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from detour.bases.hub import fetch_files
from detour.bases.names import HUB_ID
from detour.bases.preprocessing import Preprocessing
from detour.bases.quiet import quiet_libraries
from detour.errors import BaseError, ConfigError
from detour.evaluation.feature_cache import FeatureCache, picture_key
from detour.evaluation.pixels import Pictures
from detour.files import remembered_sha256

BATCH = 32
"""Number of pictures or prompts in one forward pass of the judge."""

DEFAULT_JUDGE = "openai/clip-vit-large-patch14"
"""CLIP model for bases without a judge of their own: the one behind most published scores; 1.7 GB."""

HUB_FILES = [
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
]
"""Files of the hub that a judge is loaded from."""


@dataclass(frozen=True, kw_only=True)
class PromptFacts:
    """Object, colour and place that a prompt names; the field names are the slots of the accuracy."""

    object: str
    colour: str
    place: str


Phrase = Callable[[PromptFacts], str]
"""Function that writes facts as the canonical prompt, such as ``a red house in the desert``."""


def judge_fingerprint(name: str | Path, *, revision: str | None = None) -> str:
    """Fingerprint (:attr:`Judge.fingerprint`) of a judge that is not loaded.

    Raises:
        BaseError: not there, or without settings.
    """
    folder = judge_folder(name, revision)
    return _fingerprint(folder, Preprocessing.load(folder))


def _fingerprint(folder: Path, preprocessing: Preprocessing) -> str:
    digest = hashlib.sha256(repr(preprocessing).encode())
    for file in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        digest.update(f"{file.name}:{remembered_sha256(file)}\n".encode())
    return digest.hexdigest()


class Judge:
    """A frozen CLIP model in fp32."""

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        preprocessing: Preprocessing,
        *,
        folder: Path,
        device: str = "cpu",
        cache: FeatureCache | None = None,
    ) -> None:
        self._model = model.float().eval().requires_grad_(False).to(device)
        self._tokenizer = tokenizer
        self._preprocessing = preprocessing
        self._folder = folder
        self._device = device
        self._cache = cache

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        device: str = "cpu",
        cache: FeatureCache | None = None,
    ) -> "Judge":
        """Load a judge from a folder or the hub.

        Args:
            name: folder of a ``CLIPModel`` in transformers layout with ``preprocessor_config.json``, its tokenizer in
                it, or in ``tokenizer/`` beside it as in a diffusers folder; or a hub id ``owner/name``.
            revision: branch, tag or commit of a hub id.
            device: where it runs; features of a CPU and of a GPU agree to 1e-5 or so.
            cache: where features are kept and looked up.

        Raises:
            BaseError: not there, not a CLIP model, or a part is missing or broken; a hub id that is offline and not
                in the cache.
        """
        folder = judge_folder(name, revision)
        beside = folder.parent / "tokenizer"
        in_it = any((folder / file).exists() for file in ("vocab.json", "tokenizer.json"))
        try:
            _require_clip(folder)
            with quiet_libraries():
                model, report = CLIPModel.from_pretrained(
                    folder,
                    local_files_only=True,
                    use_safetensors=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
                words = CLIPTokenizer.from_pretrained(folder if in_it else beside, local_files_only=True)
        except (OSError, ValueError, SafetensorError) as error:
            said = " ".join(str(error).split())[:200]
            raise BaseError(f"{name}: the judge cannot be loaded ({said}). Restore the folder.") from error
        if missing := sorted(report["missing_keys"]):  # transformers would fill them with noise
            raise BaseError(
                f"{name}: the judge's file lacks {len(missing)} of its tensors, for example '{missing[0]}'. Pass the "
                "folder of a whole CLIP model, both towers and both projections."
            )
        return cls(model, words, Preprocessing.load(folder), folder=folder, device=device, cache=cache)

    @property
    def width(self) -> int:
        """Number of dimensions D of the features."""
        return int(self._model.config.projection_dim)

    @property
    def scale(self) -> float:
        """Factor of cosines before they are compared as log-odds: 100 for the published models."""
        return float(self._model.logit_scale.exp())

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of weights, settings and preprocessing, which determine a picture's features."""
        return _fingerprint(self._folder, self._preprocessing)

    @torch.inference_mode()
    def picture_features(self, pictures: Pictures) -> Tensor:
        """Features of pictures.

        Args:
            pictures: uint8 (N, H, W, 3), any size.

        Returns:
            float32 (N, D), rows of length one.
        """
        if self._cache is None:
            return self._looked_at(pictures)
        # Features of another device differ in the last digits: what was cached must not decide which are returned.
        who = f"{self.fingerprint}|{self._device.partition(':')[0]}"
        keys = [picture_key(who, picture) for picture in pictures]
        rows = {key: self._cache.get(key) for key in keys}
        new = {key: i for i, key in enumerate(keys) if rows[key] is None}
        for key, row in zip(new, self._looked_at(pictures[list(new.values())]), strict=True):
            rows[key] = row.clone()
            self._cache.put(key, row.clone())
        found = [row for key in keys if (row := rows[key]) is not None]
        return torch.stack(found) if found else torch.empty(0, self.width)

    def _looked_at(self, pictures: Pictures) -> Tensor:
        rows = []
        for start in range(0, len(pictures), BATCH):
            pixels = self._preprocessing(pictures[start : start + BATCH]).to(self._device)
            # Convolutions of a GPU keep ten bits of the pixels unless they are told not to.
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                pooled = self._model.vision_model(pixel_values=pixels).pooler_output
            rows.append(self._model.visual_projection(pooled))
        return self._normalised(rows)

    @torch.inference_mode()
    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Features of prompts.

        Args:
            prompts: each cut at the tokenizer's length, see :meth:`too_long`; where there is a cache, one that was read
                before is not read again.

        Returns:
            float32 (N, D), rows of length one.
        """
        if self._cache is None:
            return self._read(prompts)
        who = f"{self.fingerprint}|{self._device.partition(':')[0]}"
        keys = [hashlib.sha256(f"text|{who}|{prompt}".encode()).hexdigest() for prompt in prompts]
        found = {key: self._cache.get(key) for key in keys}
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if found[key] is None}
        for key, row in zip(new, self._read(list(new.values())), strict=True):
            found[key] = row.clone()
            self._cache.put(key, row.clone())
        kept = [row for key in keys if (row := found[key]) is not None]
        return torch.stack(kept) if kept else torch.empty(0, self.width)

    def _read(self, prompts: Sequence[str]) -> Tensor:
        rows = []
        for start in range(0, len(prompts), BATCH):
            tokens = self._tokenizer(
                list(prompts[start : start + BATCH]),
                padding="max_length",
                max_length=self._max_tokens,
                truncation=True,
                return_tensors="pt",
            )
            pooled = self._model.text_model(input_ids=tokens["input_ids"].to(self._device)).pooler_output
            rows.append(self._model.text_projection(pooled))
        return self._normalised(rows)

    def too_long(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """Prompts with more tokens than the judge reads, which it cuts."""
        counts = (len(self._tokenizer(prompt)["input_ids"]) for prompt in prompts)
        return tuple(
            prompt for prompt, count in zip(prompts, counts, strict=True) if count > self._max_tokens
        )

    @property
    def _max_tokens(self) -> int:
        return int(self._model.config.text_config.max_position_embeddings)

    def _normalised(self, rows: list[Tensor]) -> Tensor:
        features = torch.cat(rows).cpu() if rows else torch.empty(0, self.width)
        return torch.nn.functional.normalize(features, dim=-1)

    def prompt_accuracy(
        self,
        pictures: Pictures,
        facts: Sequence[PromptFacts],
        vocabulary: Mapping[str, Sequence[str]],
        phrase: Phrase,
    ) -> dict[str, float]:
        """Share of the pictures for which the true word beats every other word of its slot.

        Args:
            pictures: uint8 (N, H, W, 3).
            facts: what each picture was asked to show, N of them.
            vocabulary: slot (a field of :class:`PromptFacts`) → all words that can stand there.
            phrase: writes facts as a prompt.

        Returns:
            slot → share between 0 and 1.

        Raises:
            ConfigError: not one fact a picture, or a true word that its vocabulary does not have.
        """
        hits = self.prompt_hits(pictures, facts, vocabulary, phrase)
        return {slot: sum(row) / len(row) for slot, row in hits.items()}

    def prompt_hits(
        self,
        pictures: Pictures,
        facts: Sequence[PromptFacts],
        vocabulary: Mapping[str, Sequence[str]],
        phrase: Phrase,
    ) -> dict[str, list[bool]]:
        """Whether the true word won, slot by slot and picture by picture; arguments as in :meth:`prompt_accuracy`.

        Raises:
            ConfigError: not one fact a picture, or a true word that its vocabulary does not have.
        """
        if len(pictures) != len(facts):
            raise ConfigError(
                f"{len(pictures)} pictures with {len(facts)} prompts: each picture needs its own."
            )
        picture_features = self.picture_features(pictures)
        return {
            slot: self._slot_hits(picture_features, facts, slot, words, phrase)
            for slot, words in vocabulary.items()
        }

    def _slot_hits(
        self,
        picture_features: Tensor,
        facts: Sequence[PromptFacts],
        slot: str,
        words: Sequence[str],
        phrase: Phrase,
    ) -> list[bool]:
        candidates = [[phrase(replace(fact, **{slot: word})) for word in words] for fact in facts]
        distinct = list(dict.fromkeys(prompt for row in candidates for prompt in row))
        rows = dict(zip(distinct, self.text_features(distinct), strict=True))
        hits = []
        for look, fact, prompts in zip(picture_features, facts, candidates, strict=True):
            true_word = getattr(fact, slot)
            if true_word not in words:
                raise ConfigError(
                    f"{slot} '{true_word}' is not among the words to choose from: {', '.join(words)}."
                )
            scores = torch.stack([rows[prompt] for prompt in prompts]) @ look
            hits.append(words[int(scores.argmax())] == true_word)
        return hits


def judge_folder(name: str | Path, revision: str | None = None) -> Path:
    """Folder of a judge, downloaded where needed.

    Args:
        name: a folder, or a hub id ``owner/name``.
        revision: branch, tag or commit of a hub id.

    Raises:
        BaseError: neither a folder nor a model that can be had from the hub.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if isinstance(name, str) and HUB_ID.match(name):
        return fetch_files(name, revision, HUB_FILES, [], what="judge")
    raise BaseError(
        f"judge '{name}' is no folder here and no hub id (owner/name). Name a CLIP model, e.g. {DEFAULT_JUDGE}."
    )


def judge_of(base_folder: Path) -> str | Path:
    """Default judge of a base: its own CLIP pair where it has one, else :data:`DEFAULT_JUDGE`."""
    own = base_folder / "judge"
    return own if own.is_dir() else DEFAULT_JUDGE


def _require_clip(folder: Path) -> None:
    """Raise ``ValueError`` where the folder holds another model than CLIP, and ``OSError`` where it holds none."""
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind != "clip":
        raise ValueError(f"config.json says '{kind}', not 'clip'")
    if not list(folder.glob("*.safetensors")):
        raise ValueError("no *.safetensors; pickles can run code when they are opened")
