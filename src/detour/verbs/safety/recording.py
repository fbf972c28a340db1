"""Scores of every layer for every case, recorded once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from detour.bases.base import Base
from detour.errors import ConfigError
from detour.files import lines_of, read_text
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.requests import AdapterInUse
from detour.safety.decision import Finding
from detour.safety.policy import Policy, texts_of
from detour.safety.policy_file import PolicySpec
from detour.specs.generation import PictureSpec
from detour.verbs.chosen_adapters import choose_adapter, in_use
from detour.verbs.progress import Progress, ProgressFn
from detour.verbs.safety.cases import SafetyCase

MAX_BYTES = 1 << 30
THRESHOLDS = {
    "upper",
    "lower",
    "refuse",
    "hold",
    "margin",
    "min_share",
    "action",
    "revision",
    "order",
    "retention",
    "review",
}
"""Keys of a policy that change no score."""


class CaseScores(BaseModel):
    """What the layers found in one case, and what it cost.

    Attributes:
        id: of the case.
        texts: findings of the layers of texts.
        plain: findings of the layers of pictures, drawn without Safe Latent Diffusion.
        steered: the same, drawn with it; empty where the policy has none.
        seconds: layer, ``drawing`` and ``drawing steered`` → CPU seconds of this case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    texts: tuple[Finding, ...]
    plain: tuple[Finding, ...]
    steered: tuple[Finding, ...] = ()
    seconds: Mapping[str, float]


class ScoreFile:
    """``scores.jsonl``: a first line that says what the scores depend on, then one line a case."""

    def __init__(self, path: Path, key: str) -> None:
        """Open the file, or begin it.

        Args:
            path: of the file.
            key: of all that the scores depend on.

        Raises:
            ConfigError: it holds scores of something else.
        """
        self.path, self.key = path, key
        self.found: dict[str, CaseScores] = {}
        if path.exists():
            self._read()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"key": key})

    def _read(self) -> None:
        first, *lines = lines_of(read_text(self.path, max_bytes=MAX_BYTES, error=ConfigError))
        try:
            same = json.loads(first)["key"] == self.key
        except (ValueError, LookupError, TypeError):
            same = False
        if not same:
            raise ConfigError(
                f"{self.path}: holds scores of other cases, another base or another policy. Choose another --out."
            )
        whole = len(first) + 1
        for line in lines:
            try:
                one = CaseScores.model_validate_json(line)
            except ValueError:
                break  # the line that a killed call left
            self.found[one.id] = one
            whole += len(line.encode()) + 1
        with self.path.open("r+b") as stream:
            stream.truncate(min(whole, self.path.stat().st_size))

    def add(self, scores: CaseScores) -> None:
        """Keep the scores of a case; they are on the disk when this returns."""
        self.found[scores.id] = scores
        self._append(scores.model_dump(mode="json"))

    def _append(self, value: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(value) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def score_key(
    spec: PolicySpec, policy: Policy, base: Base, how: PictureSpec, cases: Sequence[SafetyCase]
) -> str:
    """Hash of all that scores depend on; thresholds and actions are no part of it."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(inner) for key, inner in value.items() if key not in THRESHOLDS}
        return [bare(inner) for inner in value] if isinstance(value, list | tuple) else value

    facts = {
        "policy": bare(spec.model_dump(mode="json")),
        "files": policy.file.files_sha256(),
        "base": base.weights_sha256(),
        "how": how.model_dump(mode="json"),
        "cases": [case.model_dump(mode="json") for case in cases],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def record_scores(
    policy: Policy,
    base: Base,
    engine: PictureEngine | None,
    cases: Sequence[SafetyCase],
    file: ScoreFile,
    *,
    how: PictureSpec,
    folder: Path,
    batch: int,
    progress: ProgressFn,
) -> None:
    """Draw every case and let every layer look, also where an earlier one has refused.

    Args:
        policy: with its layers.
        base: that adapters have to fit.
        engine: of the base; ``None`` where no layer looks at pictures, and none is drawn.
        cases: all of them; those that the file has are not drawn again.
        file: that takes the scores.
        how: steps, size and guidance of the pictures.
        folder: that relative paths of adapters start from.
        batch: pictures in one forward pass.
        progress: told after each batch.
    """
    left = [case for case in cases if case.id not in file.found]
    adapters: dict[str, AdapterInUse] = {}
    for group in _batches(left, batch):
        requests = [_request(case, base, how, folder, adapters) for case in group]
        for scores in _scored(policy, engine, group, requests, batch):
            file.add(scores)
        progress(Progress(stage="measuring", done=len(file.found), total=len(cases)))


def _batches(cases: Sequence[SafetyCase], batch: int) -> Iterator[Sequence[SafetyCase]]:
    yield from (cases[start : start + batch] for start in range(0, len(cases), batch))


def _request(
    case: SafetyCase, base: Base, how: PictureSpec, folder: Path, adapters: dict[str, AdapterInUse]
) -> PictureRequest:
    for name in case.loras:
        if name not in adapters:
            adapters[name] = in_use([choose_adapter(str(folder / name), base)])[0]
    return PictureRequest(
        prompt=case.prompt,
        seed=case.seed,
        negative_prompt=case.negative_prompt,
        how=how,
        adapters=tuple(adapters[name] for name in case.loras),
    )


def _scored(
    policy: Policy,
    engine: PictureEngine | None,
    cases: Sequence[SafetyCase],
    requests: Sequence[PictureRequest],
    batch: int,
) -> list[CaseScores]:
    """The scores of one batch; what it cost is shared evenly among its cases."""
    policy.times.seconds.clear()
    texts = [policy.look_at_texts(texts_of(one), every_layer=True) for one in requests]
    plain: list[list[Finding]] = [[] for _ in cases]
    steered: list[list[Finding]] = [[] for _ in cases]
    drawing: dict[str, float] = {}
    if engine is not None:
        plain, drawing["drawing"] = _looked_at(policy, engine, requests, batch)
    seconds = dict(policy.times.seconds)
    if engine is not None and policy.spec.latent is not None:
        guided = [policy.guided(one) for one in requests]
        steered, drawing["drawing steered"] = _looked_at(policy, engine, guided, batch)
    return [
        CaseScores(
            id=case.id,
            texts=tuple(texts[index]),
            plain=tuple(plain[index]),
            steered=tuple(steered[index]),
            seconds={name: value / len(cases) for name, value in (seconds | drawing).items()},
        )
        for index, case in enumerate(cases)
    ]


def _looked_at(
    policy: Policy, engine: PictureEngine, requests: Sequence[PictureRequest], batch: int
) -> tuple[list[list[Finding]], float]:
    """What the layers of pictures find, and the CPU seconds of drawing."""
    began = time.process_time()
    drawn = engine.draw(requests, batch=batch)
    seconds = time.process_time() - began
    return policy.look_at_pictures(drawn.pictures, flags=drawn.nsfw, every_layer=True), seconds
