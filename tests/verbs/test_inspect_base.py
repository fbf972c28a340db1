import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from detour.errors import BaseError, ConfigError
from detour.verbs.explain.inspection import inspect_base, plot_unet


def test_sd15_is_counted_without_weights() -> None:
    found = inspect_base("sd15", targets="attn", ranks=(4,))
    assert not found.has_weights
    assert {part.name: part.parameters for part in found.parts} == {
        "unet": 859_520_964,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
    }
    cost = found.costs[0]
    assert (cost.targets, cost.modules, cost.parameters) == ("attn", 128, 797_184)
    assert cost.share == pytest.approx(797_184 / 860_318_148)
    assert round(100 * cost.share, 4) == 0.0927


def test_blocks_add_up_to_the_whole_unet_and_the_whole_adapter() -> None:
    found = inspect_base("pocket", targets="kohya", ranks=(8, 2))
    assert sum(block.parameters for block in found.blocks) == found.parts[0].parameters
    assert sum(block.adapter_parameters for block in found.blocks) == found.costs[0].parameters
    assert sum(group.layers for block in found.blocks for group in block.groups) == len(found.layers)
    assert sum(group.adapted for block in found.blocks for group in block.groups) == found.costs[0].modules


def test_sd15_attends_at_three_resolutions_and_in_the_middle() -> None:
    blocks = {block.name: block for block in inspect_base("sd15", targets="cross-attn").blocks}
    sides = {name: block.side for name, block in blocks.items() if any(g.adapted for g in block.groups)}
    assert sides == {
        "down_blocks.0": 64,
        "down_blocks.1": 32,
        "down_blocks.2": 16,
        "mid_block": 8,
        "up_blocks.1": 16,
        "up_blocks.2": 32,
        "up_blocks.3": 64,
    }


def test_every_preset_is_priced_at_every_rank_with_the_targets_first() -> None:
    costs = inspect_base("pocket", targets="conv_in,conv_out", ranks=(1, 4)).costs
    assert [cost.targets for cost in costs[:2]] == ["conv_in,conv_out"] * 2
    assert {cost.rank for cost in costs if cost.targets == "kohya"} == {1, 4}
    assert all(
        cost.file_bytes["fp32"] == 4 * cost.parameters == 2 * cost.file_bytes["fp16"] for cost in costs
    )


def test_ranks_beyond_what_a_layer_can_use_are_said_with_the_layer() -> None:
    assert inspect_base("sd15", targets="conv", ranks=(4,)).warnings == ()
    (sentence,) = inspect_base("sd15", targets="conv", ranks=(4, 16)).warnings
    assert sentence == "rank 16 is more than these layers can use: conv_out (4)."


def test_json_is_plain_and_complete(tiny_base: Path) -> None:
    found = json.loads(inspect_base(str(tiny_base), targets="re:attn2").to_json())
    assert found["latent_size"] == 8
    assert len([layer for layer in found["layers"] if layer["selected"]]) == found["costs"][0]["modules"]
    assert str(tiny_base.parent) not in json.dumps({**found, "name": ""})


def test_a_folder_of_settings_alone_is_inspected(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "settings"
    shutil.copytree(tiny_base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    assert inspect_base(str(folder)).parts == inspect_base(str(tiny_base)).parts


@pytest.mark.parametrize("ranks", [(), (0,), (4, -1)])
def test_ranks_must_be_positive(ranks: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="--rank"):
        inspect_base("pocket", ranks=ranks)


def test_an_unknown_base_names_the_nearest() -> None:
    with pytest.raises(BaseError, match="Did you mean 'pocket'"):
        inspect_base("poket")


def test_plot_is_a_picture_that_shows_the_adapted_layers_in_their_own_colour(
    tiny_base: Path, tmp_path: Path
) -> None:
    def orange(targets: str) -> int:
        path = plot_unet(inspect_base(str(tiny_base), targets=targets), tmp_path / f"{targets}.png")
        with Image.open(path) as picture:
            colours = picture.convert("RGB").getcolors(maxcolors=1 << 24) or []
        return sum(number for number, colour in colours if colour == (255, 216, 168))

    assert orange("all") > orange("cross-attn") > 10_000


@pytest.mark.parametrize(
    ("base", "parameters", "trained"),
    [
        ("sd35-medium", 2_243_171_520, (191, 9_388_032, 190, 9_338_880)),
        ("flux-dev", 11_901_408_320, (266, 26_148_864, 266, 26_148_864)),
    ],
)
def test_transformers_are_counted_with_and_without_what_is_dead_by_structure(
    base: str, parameters: int, trained: tuple[int, ...]
) -> None:
    found = inspect_base(base, targets="attn", ranks=(16,))
    assert found.parts[0].parameters == parameters
    assert sum(block.parameters for block in found.blocks) == parameters
    cost = found.costs[0]
    assert (cost.modules, cost.parameters, cost.trained_modules, cost.trained_parameters) == trained
    dead = [sentence for sentence in found.warnings if "no gradient" in sentence]
    assert len(dead) == (base == "sd35-medium")
    assert all("transformer_blocks.23.attn.add_q_proj" in sentence for sentence in dead)
    numbers = [int(block.name.rpartition(".")[2]) for block in found.blocks if block.name.startswith("trans")]
    assert numbers == sorted(numbers)
    assert found.prediction == "flow velocity"
    with pytest.raises(ConfigError, match="is a transformer"):
        plot_unet(found, Path("x.png"))
