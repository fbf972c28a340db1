"""The policy file that an operator writes: strict TOML with a name and a revision."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from detour.errors import ConfigError
from detour.files import sha256_of
from detour.specs.sources import parse, read_toml
from detour.specs.strict import NonNegative, Positive, PositiveInt, Spec

Probability = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1, max_length=2000)]
CodeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
TextAction = Literal["refuse", "change", "hold"]
PictureAction = Literal["refuse", "hold"]
OrderedLayer = Literal["terms", "classifier", "checker", "texts", "examples", "frames", "copies"]
REQUEST_LAYERS: tuple[OrderedLayer, ...] = ("terms", "classifier")
PICTURE_LAYERS: tuple[OrderedLayer, ...] = ("checker", "texts", "examples", "frames", "copies")


class CategorySpec(Spec):
    """Words and phrases of one category, and the action where one is found."""

    name: CodeName
    """Name of the category, part of the code ``terms.NAME``."""
    action: TextAction = "refuse"
    terms: tuple[Text, ...] = Field(min_length=1, max_length=20_000)
    """``crown`` (the word and its plural), ``crown*`` (words that begin so), ``*crown*`` (words that hold it),
    ``royal headgear`` (words in a row), ``king & hat`` (all of them anywhere)."""
    allow: tuple[Text, ...] = ()
    """Phrases that are no finding, in the same notation: ``crown prince``."""


class TermsSpec(Spec):
    """Layer 1: words and phrases."""

    categories: tuple[CategorySpec, ...] = Field(min_length=1, max_length=200)

    @model_validator(mode="after")
    def _different_names(self) -> TermsSpec:
        names = [one.name for one in self.categories]
        if len(set(names)) < len(names):
            raise ValueError("names of categories must differ")
        return self


class ClassifierSpec(Spec):
    """Layer 2: a classifier trained by ``detour safety train``."""

    folder: str
    """Folder that ``detour safety train`` wrote, relative to the policy file."""
    upper: Probability
    """Probability from which ``action`` is taken."""
    lower: Probability
    """Probability from which pictures are held for a person; equal to ``upper`` for none."""
    action: TextAction = "refuse"

    @model_validator(mode="after")
    def _in_order(self) -> ClassifierSpec:
        return _ordered(self)


class RuleSpec(Spec):
    """Words that the layer ``rewrite`` replaces in a prompt, and their replacement."""

    find: Text
    """Words to replace, in the notation of terms, without ``&``."""
    replace: str = Field(max_length=2000)


class EndpointSpec(Spec):
    """A chat service with the OpenAI interface."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    """Address of the service up to ``/v1``."""
    model: str
    instruction: str = (
        "Rewrite the prompt of a picture so that it no longer asks for what a safety policy forbids, and keep "
        "everything else. Answer with the new prompt alone."
    )
    key_variable: str = ""
    """Environment variable that holds the key; without a name, no key is sent."""
    timeout_s: Positive = 5.0
    """Time limit of the whole answer in seconds."""
    max_chars: PositiveInt = 2000
    """Largest number of characters of an answer; longer ones are ignored."""


class RewriteSpec(Spec):
    """Layer 3: how a request is rewritten where a layer's action is ``change``."""

    rules: tuple[RuleSpec, ...] = ()
    endpoint: EndpointSpec | None = None
    """Chat service that is asked first; if it fails, the rules are used, and without rules the request is refused."""

    @model_validator(mode="after")
    def _something(self) -> RewriteSpec:
        if not self.rules and self.endpoint is None:
            raise ValueError("rewrite needs rules or an endpoint")
        return self


class LatentSpec(Spec):
    """Layer 4: Safe Latent Diffusion."""

    concept: Text
    """Concept that pictures are steered away from, as a prompt."""
    strength: Literal["medium", "strong"] = "medium"


class CheckerSpec(Spec):
    """Layer 5: the base's own safety checker, which blackens pictures that it refuses."""

    action: PictureAction = "refuse"


class TextsSpec(Spec):
    """Layer 5: the judge's probability of the unwanted texts among all texts."""

    concepts: tuple[Text, ...] = Field(min_length=1, max_length=200)
    """Texts of what must not appear, such as ``a picture of a crown``."""
    others: tuple[Text, ...] = Field(min_length=1, max_length=1000)
    """Texts of other contents in the same wording; without them every picture would match a concept."""
    refuse: Probability
    hold: Probability
    """Score from which a person decides, up to ``refuse``."""

    @model_validator(mode="after")
    def _in_order(self) -> TextsSpec:
        return _ordered(self)


class ExamplesSpec(Spec):
    """Layer 5: likeness to unwanted and to harmless example pictures, by the judge."""

    unwanted: str
    """Folder of pictures that must not appear, relative to the policy file."""
    harmless: str
    """Folder of harmless pictures, relative to the policy file."""
    nearest: PositiveInt = 3
    """Number of most similar examples of each kind that count."""
    refuse: Probability
    hold: Probability

    @model_validator(mode="after")
    def _in_order(self) -> ExamplesSpec:
        return _ordered(self)


class FramesSpec(Spec):
    """Layer 6: a frame or bars of one colour around the picture."""

    min_share: Probability = 0.01
    """Smallest width of a frame as a share of the shorter side."""
    action: PictureAction = "hold"


class CopiesSpec(Spec):
    """Layer 6: works that must not be copied."""

    references: str
    """Folder of the works' pictures, relative to the policy file."""
    margin: NonNegative = 0.1
    """Relative distance above the measured threshold up to which pictures are held; 0 holds none."""


class JudgeSpec(Spec):
    """CLIP model of the layers ``texts`` and ``examples``."""

    name: str = "auto"
    """Judge: ``auto`` (the base's own or the default), a folder relative to the policy file, or a hub id."""


class RetentionSpec(Spec):
    """How long decisions and held pictures are kept; a refused picture is not kept at all."""

    held_pictures_days: Positive = 7.0
    """Days after which a held picture without a decision is deleted and counts as refused."""
    decisions_days: Positive = 90.0
    prompts: Literal["full", "hash"] = "full"
    """Whether decisions keep the prompt or its SHA-256."""


class ReviewSpec(Spec):
    """Layer 7: how held pictures are decided."""

    two_persons: bool = False
    """Whether a picture is released only after two different people said so; one person can refuse it."""


class PolicySpec(Spec):
    """A whole policy; a layer is active when its table is there."""

    version: Literal[1]
    """Version of the file format."""
    name: CodeName
    revision: PositiveInt = 1
    """Revision of the policy, to be raised with each change."""
    order: tuple[OrderedLayer, ...] | None = None
    """Order of the layers that check texts and pictures; a refusal ends the checks. The default is the order below."""
    judge: JudgeSpec = JudgeSpec()
    retention: RetentionSpec = RetentionSpec()
    review: ReviewSpec = ReviewSpec()
    terms: TermsSpec | None = None
    classifier: ClassifierSpec | None = None
    rewrite: RewriteSpec | None = None
    latent: LatentSpec | None = None
    checker: CheckerSpec | None = None
    texts: TextsSpec | None = None
    examples: ExamplesSpec | None = None
    frames: FramesSpec | None = None
    copies: CopiesSpec | None = None

    @model_validator(mode="after")
    def _whole(self) -> PolicySpec:
        there = {layer for layer in (*REQUEST_LAYERS, *PICTURE_LAYERS) if getattr(self, layer) is not None}
        if self.order is not None and (set(self.order) != there or len(self.order) > len(there)):
            raise ValueError(f"order must name each layer that has a table once: {', '.join(sorted(there))}")
        categories = () if self.terms is None else self.terms.categories
        changes = any(one.action == "change" for one in categories)
        changes |= self.classifier is not None and self.classifier.action == "change"
        if changes and self.rewrite is None:
            raise ValueError("a layer with the action 'change' needs the table rewrite")
        return self

    def layers(self, among: tuple[OrderedLayer, ...]) -> tuple[OrderedLayer, ...]:
        """List the layers among the given ones that this policy has, in its order."""
        order = self.order or (*REQUEST_LAYERS, *PICTURE_LAYERS)
        return tuple(one for one in order if one in among and getattr(self, one) is not None)


def _ordered(spec: Any) -> Any:
    upper, lower = (spec.upper, spec.lower) if hasattr(spec, "upper") else (spec.refuse, spec.hold)
    if lower > upper:
        raise ValueError("the lower threshold is above the upper one")
    return spec


class PolicyFile:
    """A policy file that was read, with its place and its version.

    Attributes:
        spec: what it says.
        folder: that relative paths in it start from.
    """

    def __init__(self, spec: PolicySpec, folder: Path) -> None:
        self.spec, self.folder = spec, folder

    @classmethod
    def read(cls, path: Path) -> PolicyFile:
        """Read a policy from its TOML file and hash it with the folders that it names.

        Raises:
            ConfigError: no such file, no TOML, an unknown key, or a value that is not allowed.
        """
        return cls(parse(PolicySpec, read_toml(path), where=str(path)), path.parent)

    def place(self, name: str) -> Path:
        """Path of a file or folder that the policy names."""
        return self.folder / Path(name).expanduser()

    @property
    def version(self) -> str:
        """``NAME@REVISION:HASH``; the hash covers the settings and the files that they name.

        Raises:
            ConfigError: a folder that the policy names is not there.
        """
        settings = json.dumps(self.spec.model_dump(mode="json"), sort_keys=True)
        digest = hashlib.sha256(f"{settings}\n{self.files_sha256()}".encode()).hexdigest()
        return f"{self.spec.name}@{self.spec.revision}:{digest[:12]}"

    def files_sha256(self) -> str:
        """Hex SHA-256 over the content of the folders that the policy names.

        Raises:
            ConfigError: one is not there.
        """
        digest = hashlib.sha256()
        for folder in self._named_folders():
            for file in sorted(one for one in folder.rglob("*") if one.is_file()):
                digest.update(f"{file.relative_to(folder).as_posix()}:{sha256_of(file)}\n".encode())
        return digest.hexdigest()

    def _named_folders(self) -> list[Path]:
        spec, named = self.spec, []
        if spec.classifier is not None:
            named.append(("classifier.folder", spec.classifier.folder))
        if spec.examples is not None:
            named += [
                ("examples.unwanted", spec.examples.unwanted),
                ("examples.harmless", spec.examples.harmless),
            ]
        if spec.copies is not None:
            named.append(("copies.references", spec.copies.references))
        for key, name in named:
            if not self.place(name).is_dir():
                raise ConfigError(
                    f"'{key}' is {name!r}: no such folder at {self.place(name)}. Correct the policy."
                )
        return [self.place(name) for _, name in named]
