"""Applies the layers of a policy file to requests before they are drawn and to pictures before they are shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from detour.adapters.adapter import Adapter
from detour.bases.base import Base
from detour.bases.safety import SafetyChecker
from detour.diffusion.safe_latent import safe_guidance
from detour.errors import ConfigError
from detour.evaluation.judge import Judge, judge_of
from detour.evaluation.pixels import Pictures
from detour.generation.requests import AdapterFile, Picture, PictureRequest
from detour.safety.classifier import PromptClassifier
from detour.safety.decision import SEVERITY, Decision, Finding, Place, decided, worst
from detour.safety.picture_layers import (
    ConceptTexts,
    ExamplePictures,
    Frames,
    ReferenceCopies,
    check_finding,
    read_pictures,
)
from detour.safety.policy_file import PICTURE_LAYERS, REQUEST_LAYERS, OrderedLayer, PolicyFile
from detour.safety.rewriting import Rewriter
from detour.safety.terms import MAX_CHARS, TermFinder

TRIGGER_PHRASE = "modelspec.trigger_phrase"
Text = tuple[Place, str]


@dataclass
class LayerTimes:
    """CPU seconds of the calling thread that each layer took.

    Attributes:
        seconds: layer → sum.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, layer: str, began: float) -> None:
        """Count the time since ``began``, from ``time.thread_time()``."""
        self.seconds[layer] = self.seconds.get(layer, 0.0) + time.thread_time() - began


class Policy:
    """A policy with its layers loaded. Calls from several threads are safe one at a time for pictures."""

    def __init__(
        self,
        file: PolicyFile,
        *,
        judge: Judge | None = None,
        has_checker: bool = False,
        open_checker: Callable[[], SafetyChecker | None] = lambda: None,
    ) -> None:
        """Load what each layer of the policy needs: word lists, classifier, judge, example pictures.

        Args:
            file: that was read.
            judge: for the layers ``texts`` and ``examples``.
            has_checker: whether the base's pictures come with the verdict of its own checker.
            open_checker: loads that checker, for start pictures and references; called when the first one comes.

        Raises:
            ConfigError: a layer needs what is not there.
            DataError: an example or a reference cannot be read.
        """
        self.file, self.spec, self.version = file, file.spec, file.version
        spec = self.spec
        if spec.checker is not None and not has_checker:
            raise ConfigError(
                "the policy has the layer checker, and the base has no safety checker. Delete [checker]."
            )
        self.terms = None if spec.terms is None else TermFinder(spec.terms)
        self.classifier = (
            None if spec.classifier is None else PromptClassifier.load(file.place(spec.classifier.folder))
        )
        self.rewriter = None if spec.rewrite is None else Rewriter(spec.rewrite)
        self._judge, self._open_checker = judge, open_checker
        self._checker: SafetyChecker | None = None
        self.texts = None if spec.texts is None else ConceptTexts(spec.texts, self._needed_judge())
        self.examples = None
        if spec.examples is not None:
            folders = {key: getattr(spec.examples, key) for key in ("unwanted", "harmless")}
            pictures = {
                key: read_pictures(file.place(name), key=f"examples.{key}") for key, name in folders.items()
            }
            self.examples = ExamplePictures(spec.examples, self._needed_judge(), **pictures)
        self.frames = None if spec.frames is None else Frames(spec.frames)
        self.copies = None
        if spec.copies is not None:
            references = read_pictures(file.place(spec.copies.references), key="copies.references")
            self.copies = ReferenceCopies(spec.copies, references)
        self.times = LayerTimes()

    @classmethod
    def open(cls, path: Path, base: Base, *, device: str = "cpu") -> Policy:
        """Read a policy file and load its layers for a base.

        Args:
            path: of the TOML file.
            base: whose pictures are looked at.
            device: of the judge.

        Raises:
            ConfigError: the policy cannot be read, or names what is not there.
            BaseError: the judge cannot be opened.
        """
        file = PolicyFile.read(path)
        judge = None
        if file.spec.texts is not None or file.spec.examples is not None:
            name = file.spec.judge.name
            own = file.place(name) if name != "auto" else None
            chosen = judge_of(base.folder) if own is None else (own if own.is_dir() else name)
            judge = Judge.load(chosen, device=device)
        weights = base.weights
        has_checker = weights is not None and (weights / "safety_checker" / "config.json").is_file()
        return cls(
            file,
            judge=judge,
            has_checker=has_checker,
            open_checker=lambda: base.load_safety_checker(device),
        )

    def _needed_judge(self) -> Judge:
        if self._judge is None:
            raise ConfigError(
                "the policy asks a judge about pictures, and there is none. Name one under [judge]."
            )
        return self._judge

    # ---- requests

    def check_request(
        self,
        request: PictureRequest,
        *,
        triggers: Sequence[str] = (),
        references: Iterable[Pictures] = (),
        findings: Sequence[Finding] = (),
    ) -> Decision:
        """Look at a request before it is drawn.

        The prompt, the negative prompt, further texts, the trigger words and names of its adapters pass the layers of
        texts; the picture that it begins with and reference pictures pass those of pictures, the base's checker too.
        Where a layer asks for a change, the prompt is rewritten and what came back passes the same layers; what is
        still found there is refused.

        Args:
            request: as the client asked.
            triggers: further words that switch something on, such as those of an adapter's shelf entry.
            references: uint8 (H, W, 3) each, pictures that the request is to follow.
            findings: that :meth:`look_at_references` made of such pictures already.

        Returns:
            the decision; its ``request`` is what may be drawn.

        Raises:
            ConfigError: the request brings a guidance of its own where the policy has one.
        """
        texts = list(texts_of(request, triggers))
        start = () if request.start is None else (request.start.pixels,)
        shown = (*start, *references, *(one.picture for one in request.references))
        findings = [*self.look_at_texts(texts), *findings, *self.look_at_references(shown)]
        revised = None
        if any(one.action == "change" for one in findings) and not _refused(findings):
            findings, request, revised = self._changed(request, findings)
        found = worst(findings)
        if found is None or found.action != "refuse":
            request = self.guided(request)
        return decided(findings, policy=self.version, request=request, revised_prompt=revised)

    def look_at_references(self, pictures: Iterable[Pictures]) -> list[Finding]:
        """Findings of the layers of pictures in pictures that a request is to follow or begins with.

        Args:
            pictures: uint8 (H, W, 3) each, of any sizes.
        """
        findings = []
        for picture in pictures:
            (found,) = self.look_at_pictures(picture[None], flags=self.flags(picture[None]))
            findings += [one.model_copy(update={"place": "reference"}) for one in found]
        return findings

    def flags(self, pictures: Pictures) -> list[bool | None] | None:
        """Ask the base's own checker about pictures that it has not looked at; ``None`` without that layer.

        Args:
            pictures: uint8 (N, H, W, 3).

        Raises:
            ConfigError: the policy has the layer, and there is no checker.
        """
        if self.spec.checker is None:
            return None
        if self._checker is None:
            self._checker = self._open_checker()
        if self._checker is None:
            raise ConfigError(
                "the policy has the layer checker, and none is there to look at reference pictures. Open the policy "
                "with its base."
            )
        return list(self._checker.flag(pictures))

    def look_at_texts(self, texts: Iterable[Text], *, every_layer: bool = False) -> list[Finding]:
        """Findings of the layers of texts, in the order of the policy.

        Args:
            texts: with their places.
            every_layer: go on after a refusal, as measurements need it.
        """
        texts, findings = list(texts), []
        for layer in self.spec.layers(REQUEST_LAYERS):
            began = time.thread_time()
            for place, text in texts:
                findings += list(self._text_findings(layer, place, text))
            self.times.add(layer, began)
            if not every_layer and _refused(findings):
                break
        return findings

    def _text_findings(self, layer: OrderedLayer, place: Place, text: str) -> Iterator[Finding]:
        if len(text) > MAX_CHARS:
            yield Finding(
                layer=layer, action="refuse", code=f"{layer}.too-long", score=float(len(text)), threshold=MAX_CHARS,
                place=place,
            )  # fmt: skip
        elif layer == "terms":
            assert self.terms is not None
            hits = self.terms.find(text)
            for hit in hits:
                yield Finding(
                    layer="terms", action=hit.action, code=f"terms.{hit.category}", score=1.0, threshold=1.0,
                    place=place, detail=f"'{hit.term}', {hit.disguise}",
                )  # fmt: skip
            if not hits:
                yield Finding(layer="terms", action="allow", code="terms", score=0.0, place=place)
        else:
            assert self.classifier is not None
            assert self.spec.classifier is not None
            settings, score = self.spec.classifier, self.classifier.probability(text)
            action = (
                settings.action
                if score >= settings.upper
                else ("hold" if score >= settings.lower else "allow")
            )
            limit = settings.upper if score >= settings.upper else settings.lower
            yield Finding(
                layer="classifier", action=action, code="classifier", score=score, place=place,
                threshold=None if action == "allow" else limit,
            )  # fmt: skip

    def _changed(
        self, request: PictureRequest, findings: list[Finding]
    ) -> tuple[list[Finding], PictureRequest, str | None]:
        """Rewrite the prompt; everything else that a layer wants changed cannot be, and is refused."""
        assert self.rewriter is not None
        elsewhere = [one for one in findings if one.action == "change" and one.place != "prompt"]
        began = time.thread_time()
        made = None if elsewhere else self.rewriter.rewrite(request.prompt)
        self.times.add("rewrite", began)
        if made is None:
            why = f"not in the prompt but in: {elsewhere[0].place}" if elsewhere else "no new prompt"
            return [*findings, self._not_rewritten(why)], request, None
        again = self.look_at_texts([("prompt", made.prompt)])
        if any(one.action in ("change", "refuse") for one in again):
            return (
                [*findings, *again, self._not_rewritten(f"found again in what the {made.by} wrote")],
                request,
                None,
            )
        changed = Finding(
            layer="rewrite", action="change", code="rewrite", score=1.0, threshold=1.0,
            detail=" ".join(part for part in (f"by {made.by}", made.note) if part),
        )  # fmt: skip
        return [*findings, *again, changed], replace(request, prompt=made.prompt), made.prompt

    @staticmethod
    def _not_rewritten(detail: str) -> Finding:
        return Finding(
            layer="rewrite", action="refuse", code="rewrite.failed", score=1.0, threshold=1.0, detail=detail
        )

    def guided(self, request: PictureRequest) -> PictureRequest:
        """The request with Safe Latent Diffusion, where the policy has it.

        Raises:
            ConfigError: it brings a guidance of its own; leaving the policy's out in silence would be worse.
        """
        latent = self.spec.latent
        if latent is None:
            return request
        if request.guidance is not None or request.further_texts:
            raise ConfigError(
                "the request has a guidance of its own, and the policy has Safe Latent Diffusion."
            )
        return replace(request, guidance=safe_guidance(latent.strength), further_texts=(latent.concept,))

    # ---- pictures

    def check_picture(
        self,
        picture: Picture,
        request: PictureRequest | None = None,  # noqa: ARG002
        *,
        after: Decision | None = None,
    ) -> Decision:
        """Look at one finished picture before anybody gets it.

        Args:
            picture: as the engine returned it; with the verdict of the base's checker where the policy asks for it.
            request: that it was drawn for.
            after: decision on its request; where that was to hold, the picture is held at least.

        Raises:
            ConfigError: the policy asks for the base's checker, and it did not look.
        """
        return self.decide_on_pixels(picture.pixels, nsfw=picture.nsfw, after=after)

    def decide_on_pixels(
        self, pixels: Pictures, *, nsfw: bool | None = None, after: Decision | None = None
    ) -> Decision:
        """Look at the pixels of one finished picture.

        Args:
            pixels: uint8 (H, W, 3).
            nsfw: what the base's own checker says, where it looked.
            after: decision on its request; where that was to hold, the picture is held at least.

        Raises:
            ConfigError: the policy asks for the base's checker, and it did not look.
        """
        findings = list(self.look_at_pictures(pixels[None], flags=(nsfw,))[0])
        if after is not None and SEVERITY.index(after.action) >= SEVERITY.index("hold"):
            findings += [one for one in after.findings if one.action in ("hold", "refuse")]
        return decided(findings, policy=self.version)

    def look_at_pictures(
        self,
        pictures: Pictures,
        *,
        flags: Sequence[bool | None] | None = None,
        every_layer: bool = False,
    ) -> list[list[Finding]]:
        """Findings of the layers of pictures in each picture, in the order of the policy.

        Args:
            pictures: uint8 (N, H, W, 3).
            flags: of the base's checker; ``None`` for pictures that it never sees, such as references.
            every_layer: go on after a refusal, as measurements need it.

        Raises:
            ConfigError: the policy asks for the base's checker, and it did not look.
        """
        found: list[list[Finding]] = [[] for _ in pictures]
        features = _Once(lambda: self._needed_judge().picture_features(pictures))
        for layer in self.spec.layers(PICTURE_LAYERS):
            if layer == "checker" and flags is None:
                continue
            if not every_layer and all(_refused(row) for row in found):
                break
            began = time.thread_time()
            for row, finding in zip(
                found, self._picture_findings(layer, pictures, flags, features), strict=True
            ):
                row.append(finding)
            self.times.add(layer, began)
        return found

    def _picture_findings(
        self,
        layer: OrderedLayer,
        pictures: Pictures,
        flags: Sequence[bool | None] | None,
        features: _Once,
    ) -> list[Finding]:
        if layer == "checker":
            assert self.spec.checker is not None
            if flags is None or any(flag is None for flag in flags):
                raise ConfigError(
                    "the policy has the layer checker, and the base's checker did not look. Open the engine with "
                    "safety=True."
                )
            return [check_finding(bool(flag), self.spec.checker.action) for flag in flags]
        if layer == "texts":
            assert self.texts is not None
            return [self.texts.finding(float(score)) for score in self.texts.scores(features())]
        if layer == "examples":
            assert self.examples is not None
            return [self.examples.finding(float(score)) for score in self.examples.scores(features())]
        if layer == "frames":
            assert self.frames is not None
            return [self.frames.finding(float(score)) for score in self.frames.scores(pictures)]
        if layer != "copies":
            raise ConfigError(f"no layer '{layer}' for pictures.")
        assert self.copies is not None
        distances, nearest = self.copies.scores(pictures)
        return [
            self.copies.finding(float(distance), int(which))
            for distance, which in zip(distances, nearest, strict=True)
        ]


class _Once:
    """Features of the pictures, computed when the first layer asks for them."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self._make = make
        self._made: Tensor | None = None

    def __call__(self) -> Tensor:
        if self._made is None:
            self._made = self._make()
        return self._made


def _refused(findings: Sequence[Finding]) -> bool:
    return any(one.action == "refuse" for one in findings)


def texts_of(request: PictureRequest, triggers: Sequence[str] = ()) -> Iterator[Text]:
    """All texts of a request, each with its place.

    An adapter's file name, its new words and the trigger phrase of its metadata count; an adapter that is still a file
    is not opened here, and who holds it passes its triggers.

    Args:
        request: as the client asked.
        triggers: further words.
    """
    yield "prompt", request.prompt
    negatives = dict.fromkeys((request.negative_prompt, request.how.negative_prompt))
    yield from (("negative", one) for one in negatives if one)
    yield from (("further text", one) for one in request.further_texts)
    if request.toward is not None and request.toward.prompt is not None:
        yield "further text", request.toward.prompt
    for used in request.adapters:
        adapter: Adapter | AdapterFile = used.adapter
        if isinstance(adapter, AdapterFile):
            yield "adapter name", adapter.path.stem
            continue
        yield from adapter_texts(adapter)
    yield from (("trigger", one) for one in triggers if one)


def adapter_texts(adapter: Adapter) -> Iterator[Text]:
    """New words, trigger phrase and title of an adapter, with their places.

    Args:
        adapter: that was read.
    """
    yield from (("trigger", word) for word in adapter.words)
    if phrase := adapter.metadata.get(TRIGGER_PHRASE, ""):
        yield "trigger", phrase
    if name := adapter.metadata.get("ss_output_name", ""):
        yield "adapter name", name
