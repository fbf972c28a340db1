from pathlib import Path

import pytest

from detour.bases.families import FAMILIES
from detour.evaluation.card import plain, render_card
from detour.evaluation.report import HEADLINES
from detour.specs import AdapterSpec, BaseSpec, DataSpec, RunSpec, TokensSpec
from tests.evaluation.stories import pair, story

SHEET = [Path("samples/sheet.png")]


def on_sd15(**base: str) -> RunSpec:
    return RunSpec(
        name="neon", base=BaseSpec(**({"name": "stable-diffusion-v1-5/stable-diffusion-v1-5"} | base))
    )


def test_it_shows_the_pictures_by_relative_links_and_says_the_verdict() -> None:
    card = render_card(story(), pictures=SHEET)
    assert "![sheet](samples/sheet.png)" in card
    assert f"**Verdict: `learned`.** {HEADLINES['learned']}" in card
    assert "Trigger: `nn-style`" in card


def test_new_words_are_triggers_too_and_none_is_named_twice() -> None:
    tokens = TokensSpec(words=("<bob>", "<ink>"), init=("robot", "pen"))
    spec = RunSpec(name="neon", adapter=AdapterSpec(tokens=tokens))
    assert "Trigger: `<bob>, <ink>`" in render_card(story(spec=spec), pictures=SHEET)
    spec = spec.model_copy(update={"data": DataSpec(trigger="a <BOB>")})
    assert "Trigger: `a <BOB>, <ink>`" in render_card(story(spec=spec), pictures=SHEET)


def test_a_file_with_words_is_not_promised_to_a_loader_that_refuses_it() -> None:
    tokens = TokensSpec(words=("<bob>",), init=("robot",))
    spec = on_sd15().model_copy(update={"adapter": AdapterSpec(tokens=tokens)})
    card = render_card(story(spec=spec, base_identity="stable-diffusion-v1-5"), pictures=SHEET)
    assert "load_lora_weights" not in card
    assert "`detour convert neon.safetensors neon-diffusers.safetensors --to diffusers`" in card
    assert "load_textual_inversion" in card


def test_no_path_of_the_machine_stands_in_it() -> None:
    spec = RunSpec(
        name="neon", base=BaseSpec(name="/srv/models/mine"), data=DataSpec(source="/home/ada/photos")
    )
    card = render_card(story(spec=spec, base_identity="mine"), pictures=SHEET)
    assert "/srv" not in card
    assert "/home" not in card


def test_a_stable_diffusion_adapter_says_how_other_tools_load_it() -> None:
    card = render_card(story(spec=on_sd15(), base_identity="stable-diffusion-v1-5"), pictures=SHEET)
    assert "models/Lora" in card
    assert "<lora:neon:1>" in card
    assert "models/loras" in card
    assert 'load_lora_weights(".", weight_name="neon.safetensors")' in card
    assert "--base stable-diffusion-v1-5/stable-diffusion-v1-5 --lora neon.safetensors" in card


def test_a_file_that_diffusers_would_pass_over_in_silence_is_said_to_want_converting() -> None:
    told = {"spec": on_sd15(), "base_identity": "somebody's"}
    card = render_card(story(**told, family=FAMILIES["sd3"]), pictures=SHEET)
    assert "detour convert neon.safetensors neon-diffusers.safetensors --to diffusers" in card
    assert "load_lora_weights" not in card
    assert "AUTOMATIC1111" not in card
    assert "load_lora_weights" in render_card(story(**told, family=FAMILIES["flux"]), pictures=SHEET)


def test_a_whole_base_is_opened_by_the_class_that_its_own_index_names() -> None:
    spec = on_sd15().model_copy(update={"adapter": AdapterSpec(method="full")})
    card = render_card(story(spec=spec, base_identity="stable-diffusion-v1-5"), pictures=SHEET)
    assert 'DiffusionPipeline.from_pretrained("neon-full")' in card
    assert "StableDiffusionPipeline" not in card


def test_an_adapter_of_the_embedded_base_does_not_promise_other_tools() -> None:
    card = render_card(story(), pictures=SHEET)
    assert "models/Lora" not in card
    assert "--base pocket --lora neon.safetensors" in card


@pytest.mark.parametrize("evil", ["a | b", "<script>x</script>", "two\nlines", "![x](y)"])
def test_captions_cannot_break_the_page(evil: str) -> None:
    assert "<script" not in plain(evil)
    assert "\n" not in plain(evil)
    card = render_card(story(held_out_pairs=[pair(evil)]), pictures=SHEET)
    assert card.count("```") == 2
