"""Text states with a graph: the same numbers as the stage's, and gradients where the family's text is encoded."""

from pathlib import Path

import pytest
import torch

from detour.bases.base import open_base
from detour.bases.text import TextStage
from detour.errors import ConfigError
from detour.training.resolving import resolve
from detour.training.text_adapter import attach_text, choose_text_targets
from detour.training.trained_text import TrainedText
from tests.tiny_base import make_tiny_sdxl
from tests.verbs.photos import quick_spec


@pytest.fixture(scope="module")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_sdxl(tmp_path_factory.mktemp("bases") / "sdxl")


def live(base: Path) -> tuple[TextStage, list[torch.nn.Parameter]]:
    opened = open_base(str(base))
    spec = quick_spec(base, Path("x"), adapter__text_encoder__rank=2)
    spec = resolve(spec, opened, ["a"], name="x", device="cpu").spec
    stage = opened.load_text()
    attached = attach_text(stage.models, choose_text_targets(opened, spec), spec)
    for _, up in (pair for one in attached for pair in one.factors.values()):
        torch.nn.init.normal_(up, std=0.1, generator=torch.Generator().manual_seed(0))
    return stage, [parameter for one in attached for parameter in one.parameters()]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_live_states_are_the_stages_own(family: str, tiny_base: Path, tiny_sdxl: Path) -> None:
    stage, _ = live(tiny_base if family == "sd1" else tiny_sdxl)
    states = TrainedText(stage).conditioning(["a cat", None, "a dog", "a cat"])
    expected = stage.encode(["a cat"]).cat(stage.unconditional(1)).cat(stage.encode(["a dog", "a cat"]))
    torch.testing.assert_close(states.states.detach(), expected.states)
    if states.pooled is not None:
        assert expected.pooled is not None
        torch.testing.assert_close(states.pooled.detach(), expected.pooled)


@pytest.mark.parametrize(("family", "flows"), [("sd1", True), ("sdxl", False)])
def test_a_dropped_caption_hands_on_gradients_where_it_is_encoded(
    family: str, flows: bool, tiny_base: Path, tiny_sdxl: Path
) -> None:
    stage, parameters = live(tiny_base if family == "sd1" else tiny_sdxl)
    TrainedText(stage).conditioning([None, None]).states.square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters) == flows
    assert all(p.grad is None for m in stage.models.values() for p in m.parameters() if not p.requires_grad)


def test_layers_that_nothing_reads_are_left_out(tiny_sdxl: Path) -> None:
    opened = open_base(str(tiny_sdxl))

    def chosen(targets: str) -> dict[str, set[str]]:
        flags = {"adapter.text_encoder.rank": 2, "adapter.text_encoder.targets": targets}
        spec = resolve(quick_spec(tiny_sdxl, Path("x"), **flags), opened, ["a"], name="x", device="cpu").spec
        found = choose_text_targets(opened, spec)
        assert set(found.dead) == {
            key for key in found.dead if key.startswith("text_encoder.encoder.layers.2.")
        }
        return {part: {layer.path for layer in layers} for part, layers in found.layers.items()}

    assert len(chosen("attn")["text_encoder"]) == 2 * 4
    assert len(chosen("attn")["text_encoder_2"]) == 3 * 4
    assert len(chosen("kohya")["text_encoder_2"]) == 3 * 6
    assert set(chosen("re:layers\\.2\\..*q_proj")) == {"text_encoder_2"}
    # the first encoder has none; presets of UNets are no advice here
    named = r"adapter\.text_encoder\.targets 'text_projection' match no layer\..*Presets: attn, kohya, linear, all\.$"
    with pytest.raises(ConfigError, match=named):
        chosen("text_projection")


def test_a_rank_that_no_layer_of_a_text_encoder_can_use_is_refused(tiny_sdxl: Path) -> None:
    opened = open_base(str(tiny_sdxl))
    flags = {"adapter.text_encoder.rank": 999}
    spec = resolve(quick_spec(tiny_sdxl, Path("x"), **flags), opened, ["a"], name="x", device="cpu").spec
    with pytest.raises(ConfigError, match=r"text_encoder\.rank is 999.*Set --text-rank \d+ or less"):
        choose_text_targets(opened, spec)
