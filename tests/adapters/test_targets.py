from functools import cache

import pytest
from torch import nn

from detour.adapters.arithmetic import count
from detour.adapters.targets import AdaptableLayer, adaptable_layers, select
from detour.bases.base import open_base
from detour.errors import ConfigError


@cache
def layers_of(base: str) -> tuple[AdaptableLayer, ...]:
    return tuple(adaptable_layers(open_base(base).meta_network()))


# Made by applying PEFT to the published configs on the meta device and counting the adapter's parameters.
AT_RANK_4 = {
    "cross-attn": {"sd15": 397_824, "sd21": 430_592, "sdxl": 3_143_680},
    "self-attn": {"sd15": 399_360, "sd21": 399_360, "sdxl": 2_662_400},
    "attn": {"sd15": 797_184, "sd21": 829_952, "sdxl": 5_806_080},
    "attn-proj": {"sd15": 996_864, "sd21": 1_029_632, "sdxl": 5_980_160},
    "kohya": {"sd15": 1_695_744, "sd21": 1_728_512, "sdxl": 10_639_360},
    "linear": {"sd15": 1_705_984, "sd21": 1_938_432, "sdxl": 10_824_704},
    "conv": {"sd15": 2_188_960},
    "all": {"sd15": 4_232_864, "sd21": 4_265_632, "sdxl": 12_353_184},
}
FIGURES = [(preset, base, figure) for preset, bases in AT_RANK_4.items() for base, figure in bases.items()]


@pytest.mark.parametrize(("preset", "base", "figure"), FIGURES)
def test_presets_count_what_peft_counts(preset: str, base: str, figure: int) -> None:
    assert count(select(layers_of(base), preset), 4) == figure


@pytest.mark.parametrize(
    ("rank", "figures"),
    [
        (1, (74_496, 99_456, 99_840, 199_296, 249_216, 423_936, 426_496, 1_058_216)),
        (
            64,
            (4_767_744, 6_365_184, 6_389_760, 12_754_944, 15_949_824, 27_131_904, 27_295_744, 67_725_824),
        ),
    ],
)
def test_sd15_counts_at_other_ranks(rank: int, figures: tuple[int, ...]) -> None:
    targets = ["attn2.to_q,attn2.to_k,attn2.to_v", *(name for name in AT_RANK_4 if name != "conv")]
    assert tuple(count(select(layers_of("sd15"), target), rank) for target in targets) == figures


def test_list_of_names_counts_for_every_family() -> None:
    names = "attn2.to_q, attn2.to_k, attn2.to_v"
    assert [count(select(layers_of(base), names), 4) for base in ("sd15", "sd21", "sdxl")] == [
        297_984,
        330_752,
        2_478_080,
    ]


def test_bare_suffixes_take_self_attention_along() -> None:
    assert len(select(layers_of("sd15"), "to_q,to_k,to_v")) == 96
    assert len(select(layers_of("sd15"), "attn2.to_q,attn2.to_k,attn2.to_v")) == 48


def test_sd15_has_52_convolutions_of_3_by_3() -> None:
    assert len(select(layers_of("sd15"), "conv")) == 52


def test_a_name_matches_at_a_dot_only() -> None:
    layers = [
        AdaptableLayer(path=path, kind="linear", in_features=1, out_features=1)
        for path in ("net.2", "ff.net.2", "planet.2", "net.2.to_k")
    ]
    assert [layer.path for layer in select(layers, "net.2")] == ["net.2", "ff.net.2"]


def test_presets_and_names_mix_without_doubles_and_in_the_models_order() -> None:
    layers = layers_of("sd15")
    mixed = select(layers, "attn2.to_k,cross-attn,conv_in")
    assert [layer.path for layer in mixed] == [layer.path for layer in layers if layer in mixed]
    assert len(mixed) == len(select(layers, "cross-attn")) + 1


def test_regular_expression_searches_the_whole_path() -> None:
    found = select(layers_of("sd15"), r"re:^mid_block\..*attn2\.to_[kv]$")
    assert [layer.path.rpartition(".")[2] for layer in found] == ["to_k", "to_v"]


@pytest.mark.parametrize(
    ("targets", "hint"),
    [
        ("cross_attn", "Did you mean 'cross-attn'?"),
        ("attn2.to_kk", "Did you mean 'attn2.to_k'?"),
        ("cross-attn,nonsense", "targets 'nonsense' match no layer"),
        ("re:nothing-like-this", "match no layer"),
        ("re:(", "not a regular expression"),
        (" , ", "match no layer"),
    ],
)
def test_what_matches_nothing_is_an_error_with_a_hint(targets: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select(layers_of("sd15"), targets)
    assert hint in str(caught.value)


def test_a_preset_that_the_model_lacks_is_an_error() -> None:
    with pytest.raises(ConfigError, match="this model has no such layers"):
        select(adaptable_layers(nn.Sequential(nn.Linear(2, 2))), "conv")


def test_grouped_convolutions_are_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3), nn.LayerNorm(4))
    assert [layer.path for layer in adaptable_layers(model)] == ["1"]


def test_an_attached_adapter_does_not_change_the_list() -> None:
    from detour.adapters.attach import attach_new

    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    before = adaptable_layers(model)
    attached = attach_new(model, "unet", before[:1], rank=2, alpha=2.0)
    assert adaptable_layers(model) == before
    attached.detach()


# Counted by PEFT on the meta device with diffusers 0.42.1, or by arithmetic from the widths: rank 16.
FLOW_COUNTS = [
    ("sd35-medium", "attn", 191, 9_388_032),
    ("sd35-medium", "self-attn", 52, 2_555_904),
    ("sd35-medium", "kohya", 385, 32_612_352),
    ("sd35-large", "attn", 303, 23_580_672),
    ("flux-dev", "attn", 266, 26_148_864),
    ("flux-dev", "attn,feed-forward", 342, 44_826_624),
    ("flux-dev", "kohya", 494, 85_917_696),
    ("flux-schnell", "kohya", 494, 85_917_696),
]


@pytest.mark.parametrize(("base", "preset", "modules", "parameters"), FLOW_COUNTS)
def test_presets_of_transformers_count_what_peft_counts(
    base: str, preset: str, modules: int, parameters: int
) -> None:
    chosen = select(layers_of(base), preset)
    assert (len(chosen), count(chosen, 16)) == (modules, parameters)


def test_the_second_attention_of_sd35_is_no_cross_attention() -> None:
    layers = layers_of("sd35-medium")
    with pytest.raises(ConfigError, match="'cross-attn': this model has no such layers"):
        select(layers, "cross-attn")
    assert all(".attn2." in layer.path for layer in select(layers, "self-attn"))
    assert not any(".attn2." in layer.path for layer in select(layers, "attn"))
    image, text = ({layer.path for layer in select(layers, name)} for name in ("image-attn", "text-attn"))
    second = {layer.path for layer in select(layers, "self-attn")}
    assert image | text == {layer.path for layer in select(layers, "attn")} | second
    assert not image & text


@pytest.mark.parametrize("base", ["sd35-medium", "flux-dev"])
def test_every_linear_of_a_transformers_blocks_is_of_one_kind(base: str) -> None:
    layers = layers_of(base)
    kinds = ["image-attn", "text-attn", "feed-forward", "modulation"]
    chosen = [{layer.path for layer in select(layers, kind)} for kind in kinds]
    if base == "flux-dev":
        single = {layer.path for layer in select(layers, "single")}
        chosen = [paths - single for paths in chosen] + [single]
    assert sum(map(len, chosen)) == len(set().union(*chosen))
    assert set().union(*chosen) == {layer.path for layer in select(layers, "kohya")}
