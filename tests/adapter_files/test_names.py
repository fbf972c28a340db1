import pytest

from detour.adapter_files.names import dotted, is_layer_path, kohya_key, layer_key, original_name
from detour.adapters.targets import adaptable_layers
from detour.bases.base import open_base
from detour.errors import AdapterError

SD1_TEXT = {"text_encoder": "lora_te"}
SDXL_TEXT = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


@pytest.fixture(scope="module", params=["sd15", "sd21", "sdxl"])
def base_paths(request: pytest.FixtureRequest) -> tuple[str, list[str]]:
    base = open_base(request.param)
    return base.family.name, [layer.path for layer in adaptable_layers(base.meta_network())]


def test_every_layer_of_the_unet_comes_back_from_its_kohya_name(base_paths: tuple[str, list[str]]) -> None:
    family, paths = base_paths
    names = [kohya_key(f"unet.{path}", family=family, text_prefixes=SDXL_TEXT) for path in paths]
    assert len(set(names)) == len(paths) > 200
    assert [layer_key(name) for name in names] == [f"unet.{path}" for path in paths]


def test_every_layer_is_in_the_grammar_and_its_flat_name_is_dotted_again(
    base_paths: tuple[str, list[str]],
) -> None:
    _, paths = base_paths
    assert all(is_layer_path("unet", path) for path in paths)
    assert [dotted("unet", path.replace(".", "_")) for path in paths] == paths


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
         "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"),
        ("down_blocks.2.attentions.1.proj_in", "lora_unet_input_blocks_8_1_proj_in"),
        ("mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj",
         "lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj"),
        ("mid_block.resnets.1.conv2", "lora_unet_middle_block_2_out_layers_3"),
        ("up_blocks.0.attentions.2.transformer_blocks.1.attn2.to_out.0",
         "lora_unet_output_blocks_2_1_transformer_blocks_1_attn2_to_out_0"),
        ("up_blocks.1.upsamplers.0.conv", "lora_unet_output_blocks_5_2_conv"),
        ("down_blocks.0.downsamplers.0.conv", "lora_unet_input_blocks_3_0_op"),
        ("up_blocks.2.resnets.2.conv_shortcut", "lora_unet_output_blocks_8_0_skip_connection"),
        ("down_blocks.0.resnets.0.time_emb_proj", "lora_unet_input_blocks_1_0_emb_layers_1"),
        ("conv_in", "lora_unet_input_blocks_0_0"),
        ("conv_out", "lora_unet_out_2"),
        ("time_embedding.linear_2", "lora_unet_time_embed_2"),
        ("add_embedding.linear_1", "lora_unet_label_emb_0_0"),
    ],
)  # fmt: skip
def test_sdxl_layers_have_the_names_of_the_original_code(path: str, name: str) -> None:
    assert kohya_key(f"unet.{path}", family="sdxl", text_prefixes=SDXL_TEXT) == name
    assert layer_key(name) == f"unet.{path}"


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_sd1_and_sd2_layers_keep_diffusers_names(family: str) -> None:
    key = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    assert kohya_key(key, family=family, text_prefixes=SD1_TEXT) == name


def test_text_encoder_names_have_the_prefix_that_tools_expect_and_are_read_with_and_without() -> None:
    key = "text_encoder.encoder.layers.0.self_attn.k_proj"
    name = "lora_te_text_model_encoder_layers_0_self_attn_k_proj"
    assert kohya_key(key, family="sd1", text_prefixes=SD1_TEXT) == name
    assert layer_key(name) == layer_key("lora_te_encoder_layers_0_self_attn_k_proj") == key
    second = "text_encoder_2.encoder.layers.31.mlp.fc2"
    assert (
        kohya_key(second, family="sdxl", text_prefixes=SDXL_TEXT)
        == "lora_te2_text_model_encoder_layers_31_mlp_fc2"
    )
    assert layer_key("lora_te2_text_model_encoder_layers_31_mlp_fc2") == second
    assert (
        layer_key("lora_te1_text_model_encoder_layers_2_mlp_fc1") == "text_encoder.encoder.layers.2.mlp.fc1"
    )


@pytest.mark.parametrize(
    "name",
    ["lora_unet_nonsense", "lora_unet_input_blocks_3_1_proj_in", "lora_unet_output_blocks_1_1_conv", "something",
     "lora_unet_double_blocks_img_attn_qkv", "lora_unet_", "lora_unet_middle_block_1_in_layers_2", "lora_te_x",
     "lora_unet_down_blocks_0_attentions_0_proj_in_proj_in", "lora_unet_input_blocks_0_0_op"],
)  # fmt: skip
def test_names_of_no_known_layer_are_none(name: str) -> None:
    assert layer_key(name) is None


def test_layers_without_a_name_are_refused() -> None:
    with pytest.raises(AdapterError, match="no layer that kohya"):
        kohya_key("unet.strange.thing", family="sd1", text_prefixes=SD1_TEXT)
    with pytest.raises(AdapterError, match="has no 'text_encoder_2'"):
        kohya_key("text_encoder_2.encoder.layers.0.mlp.fc1", family="sd1", text_prefixes=SD1_TEXT)
    with pytest.raises(AdapterError, match="no place in SDXL"):
        original_name("down_blocks.0.resnets.2.conv1")
