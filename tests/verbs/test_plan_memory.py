"""The plan names the largest stage and proposes the mildest change that fits."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from detour.bases import quantize
from detour.bases.base import Base, open_base
from detour.errors import ConfigError
from detour.specs import load_run_spec
from detour.training.footprint import CUDA_CONTEXT_BYTES, Footprint, text_footprint
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.train import memory_plan
from detour.verbs.train.memory_plan import Card, MemoryPlan, plan_memory
from tests.tiny_flow import make_tiny_flux, make_tiny_sd3

Plan = Callable[..., MemoryPlan]


def once(predict: Callable[..., Footprint]) -> Callable[..., Footprint]:
    """Run a stage once for the same base and settings, and remember what it took."""
    known: dict[str, Footprint] = {}

    def predicted(base: Base, *arguments: Any, **named: Any) -> Footprint:
        key = repr((base.folder, arguments, named))
        if key not in known:
            known[key] = predict(base, *arguments, **named)
        return known[key]

    return predicted


@pytest.fixture(scope="module", autouse=True)
def each_stage_once() -> Iterator[None]:
    """Plans of this module share the predictions of their stages; tests/training/test_footprint.py holds those."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("encoding_footprint", "training_footprint", "drawing_footprint", "proof_footprint"):
            patch.setattr(memory_plan, name, once(getattr(memory_plan, name)))
        yield


@pytest.fixture(scope="module")
def plan(tiny_base: Path) -> Plan:
    """Plans of a small base: the step runs for every figure, so it had better be short."""
    return functools.partial(plan_of, str(tiny_base))


def plan_of(base: str, *cards: Card, progress: ProgressFn = silent, **flags: object) -> MemoryPlan:
    values = {
        "base.name": base,
        "adapter.targets": "attn",
        "adapter.rank": 2,
        "base.device": "cpu",
        "base.dtype": "bf16",
        "train.batch": 8,
    }
    return plan_memory(
        load_run_spec(flags=values | {k.replace("__", "."): v for k, v in flags.items()}),
        cards=cards,
        progress=progress,
    )


@pytest.fixture(scope="module")
def training_bytes(plan: Plan) -> int:
    """Of one step of eight samples, driver included."""
    [advice] = plan(Card("large", 1 << 40)).cards
    assert advice.words == "as asked"
    assert advice.settings == {}
    return advice.peak_bytes


def test_every_stage_is_there_and_the_peak_is_the_largest(plan: Plan) -> None:
    told: list[Progress] = []
    found = plan(progress=told.append)
    assert [(one.done, one.total) for one in told] == [(number, 5) for number in range(1, 6)]
    assert [stage.stage for stage in found.stages] == [
        "encoding pictures",
        "encoding captions",
        "training",
        "drawing samples",
        "proving",
    ]
    assert all(stage.total == sum(stage.parts.values()) > 0 for stage in found.stages)
    largest = max(found.stages, key=lambda stage: stage.total)
    assert found.peak_stage == largest.stage
    assert found.peak_bytes == largest.total + found.process_bytes


def test_less_memory_asks_for_smaller_batches_first_then_for_checkpointing(
    plan: Plan, training_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = Card("tight", training_bytes - 1)
    [advice] = plan(tight).cards
    assert advice.settings == {"train.batch": 4, "train.grad_accum": 2}
    assert advice.peak_bytes <= tight.memory_bytes
    # This base's VAE takes more than a step of one sample, which no true base's does.
    monkeypatch.setattr(memory_plan._Trainer, "encoding_bytes", lambda trainer, card: 0)
    one = plan(Card("one", 1 << 40), train__batch=1).cards[0].peak_bytes
    [tighter] = plan(Card("tighter", one - 1), train__batch=1).cards
    assert tighter.settings == {"train.gradient_checkpointing": True}
    assert tighter.peak_bytes < one


def test_a_card_without_bf16_gets_fp16(plan: Plan, training_bytes: int) -> None:
    [advice] = plan(Card("old", training_bytes, bf16=False)).cards
    assert advice.settings == {"base.dtype": "fp16"}
    assert advice.fits


def test_what_cannot_fit_is_said_with_the_least_that_is_needed(plan: Plan) -> None:
    [advice] = plan(Card("tiny", CUDA_CONTEXT_BYTES + 1)).cards
    assert not advice.fits
    assert advice.settings == {}
    assert advice.peak_bytes > CUDA_CONTEXT_BYTES + 1
    assert "--resolution" in advice.words


def test_a_card_that_holds_the_step_and_not_the_text_encoders_is_said_not_to_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T5 takes half as much on a card with bf16; SD 3.5's is larger than its transformer's training step."""
    folder = str(make_tiny_sd3(tmp_path / "b"))
    base = open_base(folder)
    asked = {"train__batch": 1, "data__resolution": 32, "adapter__targets": "attn"}
    bf16, fp32 = (text_footprint(base, t5_bits=bits).total + CUDA_CONTEXT_BYTES for bits in (16, 32))
    between = (bf16 + fp32) // 2
    # A true base's VAE and step take less than its T5; this one's take more.
    monkeypatch.setattr(memory_plan._Trainer, "_encoding_pictures", 0)
    monkeypatch.setattr(memory_plan._Trainer, "bytes_at", lambda trainer, changes: 0)
    with_bf16, without = plan_of(
        folder, Card("new", between), Card("old", between, bf16=False), **asked
    ).cards
    assert without.words.startswith("does not fit: the text encoders take")
    assert without.peak_bytes == fp32
    assert "text encoders" not in with_bf16.words


def test_shapes_alone_are_enough_for_a_base_without_weights(plan: Plan) -> None:
    found = plan(base__name="sd15", train__batch=1, adapter__targets="cross-attn", sample__every=0)
    training = next(stage for stage in found.stages if stage.stage == "training")
    assert training.parts["weights"] == pytest.approx(2 * 859_520_964, rel=1e-3)


def test_advice_for_a_whole_base_stays_in_fp32(plan: Plan) -> None:
    large = Card("large", 1 << 40)
    [advice] = plan(large, adapter__method="full", base__dtype="fp32").cards
    assert (advice.fits, advice.settings) == (True, {})


@pytest.mark.parametrize("method", ["dora", "lokr"])
def test_methods_whose_factors_stand_outside_the_model_are_counted(plan: Plan, method: str) -> None:
    [training] = [
        stage for stage in plan(adapter__method=method, sample__every=0).stages if stage.stage == "training"
    ]
    assert training.parts["adapter"] > 0
    assert training.parts["gradients"] == training.parts["adapter"]


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_from_the_weights_costs_a_second_copy_of_the_adapter(plan: Plan, init: str) -> None:
    def training(**settings: Any) -> Any:
        made = plan(adapter__targets="linear", sample__every=0, **settings)
        return next(stage.parts for stage in made.stages if stage.stage == "training")

    plain, from_base = training(), training(adapter__init=init)
    assert from_base["start"] == from_base["adapter"] == plain["adapter"]
    assert from_base["weights"] == plain["weights"]


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_transformers_stages_are_told_apart(family: str, tmp_path: Path) -> None:
    """T5 is a stage of its own before training, and what training holds is the transformer alone."""
    folder = make_tiny_sd3(tmp_path / "b") if family == "sd3" else make_tiny_flux(tmp_path / "b")
    base = open_base(str(folder))
    parts = {stage.stage: stage.parts for stage in plan_of(str(folder), train__batch=1).stages}
    texts = sum(p.numel() for model in base.meta_text().values() for p in model.parameters())
    assert parts["encoding captions"]["weights"] == 4 * texts
    network = base.meta_network()
    numbers = sum(t.numel() for t in (*network.parameters(), *network.buffers()))
    assert parts["training"]["weights"] == pytest.approx(2 * numbers, rel=1e-3)
    assert "text encoders" not in parts["training"]
    clip = sum(
        p.numel()
        for part, m in base.meta_text().items()
        if part != base.family.t5_part
        for p in m.parameters()
    )
    on_gpu = text_footprint(base, t5_bits=16).total
    assert on_gpu == 4 * clip + 2 * (texts - clip)
    saving = plan_of(str(folder), train__batch=1, train__gradient_checkpointing=True).stages[2].parts
    assert saving["activations"] < parts["training"]["activations"]


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_base_is_planned_where_its_library_is_not_installed(
    kind: Literal["nf4", "int8"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "PACKAGES", {kind: "a_package_that_is_nowhere"})
    with pytest.raises(ConfigError, match="is not installed"):
        quantize.require_quantizer(kind)
    whole, packed = (plan_of("sd15", base__quantize=how) for how in ("none", kind))
    weights = [
        next(one.parts["weights"] for one in found.stages if one.stage == "training")
        for found in (whole, packed)
    ]
    assert weights[1] < weights[0]


def test_a_plan_refuses_what_the_base_has_no_positions_for(tmp_path: Path) -> None:
    folder = str(make_tiny_sd3(tmp_path / "b"))
    with pytest.raises(ConfigError, match=r"the position table of base .* ends at 256 px"):
        plan_of(folder, train__batch=1, adapter__targets="attn", data__resolution=272)
