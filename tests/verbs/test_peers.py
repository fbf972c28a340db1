"""Settings of other trainers: each key becomes something named, or is said to have no counterpart."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from detour.bases.base import open_base
from detour.cli.main import cli
from detour.errors import ConfigError
from detour.specs import load_run_spec
from detour.training.resolving import resolve
from detour.verbs.train.peers import PEERS, PeerName, PeerSettings, read_peer
from tests.verbs.photos import make_photos

KOHYA = """
[model]
pretrained_model_name_or_path = "flux-dev"
[dataset]
train_data_dir = "photos"
resolution = "768,768"
caption_dropout_rate = 0.05
[network]
network_module = "networks.lora_flux"
network_dim = 16
network_train_unet_only = true
[training]
learning_rate = 2e-4
optimizer_type = "AdamW8bit"
max_train_steps = 1200
train_batch_size = 2
mixed_precision = "bf16"
lr_scheduler = "cosine_with_restarts"
lr_warmup_steps = 0.1
timestep_sampling = "flux_shift"
model_prediction_type = "sigma_scaled"
guidance_scale = 1.0
clip_skip = 2
output_dir = "out"
made_up = 3
"""

AI_TOOLKIT = """
job: extension
config:
  name: my_flux
  process:
    - type: sd_trainer
      training_folder: output
      trigger_word: p3r5on
      network: {type: lora, linear: 32, linear_alpha: 16}
      save: {dtype: float16, save_every: 250}
      datasets:
        - folder_path: photos
          caption_ext: txt
          caption_dropout_rate: 0.05
          resolution: [512, 768, 1024]
      train:
        batch_size: 1
        steps: 2000
        gradient_accumulation_steps: 2
        train_unet: true
        train_text_encoder: false
        gradient_checkpointing: true
        noise_scheduler: flowmatch
        optimizer: adamw8bit
        lr: 1e-4
        ema_config: {use_ema: true, ema_decay: 0.99}
        dtype: bf16
        timestep_type: sigmoid
      model: {name_or_path: flux-dev, is_flux: true, quantize: true}
      sample: {sampler: flowmatch, sample_every: 250, guidance_scale: 4, sample_steps: 20, prompts: [a fish, a dog]}
"""

DIFFUSERS = """
accelerate launch train_dreambooth_lora_sd3.py \\
  --pretrained_model_name_or_path=sd35-medium --instance_data_dir photos \\
  --instance_prompt="a photo of sks dog" --rank=16 --train_batch_size=1 \\
  --learning_rate=1e-4 --max_train_steps 500 --mixed_precision=bf16 \\
  --weighting_scheme=logit_normal --logit_mean=0.5 --logit_std=1.2 --use_8bit_adam --output_dir=out
"""

FILES: dict[PeerName, str] = {"kohya": KOHYA, "ai-toolkit": AI_TOOLKIT, "diffusers": DIFFUSERS}
BECAME: dict[PeerName, dict[str, Any]] = {
    "kohya": {
        "base.name": "flux-dev", "adapter.rank": 16, "adapter.alpha": 1.0, "train.optim.lr": 2e-4,
        "train.optim.name": "adamw8bit", "train.schedule.kind": "cosine_restarts", "train.schedule.warmup": 120,
        "train.loss.timesteps": "logit_normal", "data.resolution": 768, "base.dtype": "bf16",
    },
    "ai-toolkit": {
        "name": "my_flux", "data.trigger": "p3r5on", "adapter.rank": 32, "adapter.alpha": 16.0, "train.ema": 0.99,
        "data.resolution": 1024, "train.loss.timesteps": "logit_normal", "train.loss.shift": 1.0,
        "sample.prompts": ("a fish", "a dog"), "train.optim.lr": 1e-4, "adapter.text_encoder.rank": 0,
    },
    "diffusers": {
        "base.name": "sd35-medium", "data.caption": "a photo of sks dog", "adapter.rank": 16, "train.steps": 500,
        "train.loss.logit_mean": -0.5, "train.loss.logit_std": 1.2, "train.optim.name": "adamw8bit",
    },
}  # fmt: skip
WITHOUT: dict[PeerName, set[str]] = {
    "kohya": {"model_prediction_type", "guidance_scale", "clip_skip", "made_up"},
    "ai-toolkit": {"model.quantize", "train.train_unet", "train.ema_config.use_ema"},
    "diffusers": {"precondition_outputs"},
}


def read(peer: PeerName, tmp_path: Path) -> PeerSettings:
    path = tmp_path / "theirs"
    path.write_text(FILES[peer], encoding="utf-8")
    return read_peer(peer, path)


@pytest.mark.parametrize("peer", PEERS)
def test_every_key_becomes_something_or_is_said_to_have_no_counterpart(
    peer: PeerName, tmp_path: Path
) -> None:
    found = read(peer, tmp_path)
    assert {key: found.settings[key] for key in BECAME[peer]} == BECAME[peer]
    assert {fate.key for fate in found.fates if not fate.became} == WITHOUT[peer]
    assert all(fate.words for fate in found.fates if not fate.became)
    assert all("→" in fate.line or "no counterpart" in fate.line for fate in found.fates)


@pytest.mark.parametrize("peer", PEERS)
def test_the_settings_make_a_run_that_resolves(
    peer: PeerName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detour.training.combinations.require_package", lambda name: None)
    spec = load_run_spec(flags=dict(read(peer, tmp_path).settings))
    base = open_base(spec.base.name)
    resolved = resolve(spec, base, ("a",) * 8, name="x", device="cpu").spec
    assert resolved.train.loss.timesteps == "logit_normal"


def test_the_direction_of_the_law_is_turned_where_theirs_is_the_other_way_round(tmp_path: Path) -> None:
    """Positive means less noise in diffusers' scripts and more in kohya's and here."""
    theirs = tmp_path / "a.toml"
    theirs.write_text('weighting_scheme = "logit_normal"\nlogit_mean = 0.5\n', encoding="utf-8")
    assert read_peer("kohya", theirs).settings["train.loss.logit_mean"] == 0.5  # its SD 3 trainer
    (fate,) = [fate for fate in read("diffusers", tmp_path).fates if fate.key == "logit_mean"]
    assert "the other way round" in fate.words


FLUX = 'network_module = "networks.lora_flux"\nnetwork_dim = 4\n'


@pytest.mark.parametrize(
    ("lines", "became"),
    [
        # The default: times are looked up in a list that falls, and the list is shifted by 3.
        ([], {"train.loss.timesteps": "uniform", "train.loss.shift": 3.0}),
        (
            ['weighting_scheme = "logit_normal"', "logit_mean = 0.5", "discrete_flow_shift = 2.0"],
            {"train.loss.timesteps": "logit_normal", "train.loss.logit_mean": -0.5, "train.loss.shift": 2.0},
        ),
        (
            [
                'timestep_sampling = "sigmoid"',
                'weighting_scheme = "mode"',
                "logit_mean = 0.5",
                "mode_scale = 0.8",
            ],
            {"train.loss.timesteps": "logit_normal", "train.loss.logit_mean": 0.0, "train.loss.shift": 1.0},
        ),
        (
            ['timestep_sampling = "shift"', "sigmoid_scale = 0.7", 'model_prediction_type = "raw"'],
            {"train.loss.logit_std": 0.7, "train.loss.shift": 3.0, "train.loss.weighting": "uniform"},
        ),
        (
            ['model_prediction_type = "sigma_scaled"', 'weighting_scheme = "sigma_sqrt"'],
            {"train.loss.timesteps": "uniform", "train.loss.weighting": "uniform"},
        ),
    ],
)
def test_the_flux_trainer_of_sd_scripts_has_times_of_its_own_whatever_the_order_of_the_keys(
    lines: list[str], became: dict[str, Any], tmp_path: Path
) -> None:
    """``library/flux_train_utils.py``: only ``sigma`` reads a weighting scheme, and it counts downwards."""
    theirs, orders = tmp_path / "a.toml", [lines, lines[::-1]]
    for order in orders:
        theirs.write_text(FLUX + "\n".join(order) + "\n", encoding="utf-8")
        found = read_peer("kohya", theirs)
        assert {key: found.settings.get(key) for key in became} == became
        assert "train.loss.mode_scale" not in found.settings
        assert all(fate.words for fate in found.fates if not fate.became)


def test_defaults_that_differ_and_layers_get_a_line_each(tmp_path: Path) -> None:
    theirs = tmp_path / "a.toml"
    theirs.write_text(FLUX, encoding="utf-8")
    found = read_peer("kohya", theirs)
    unnamed = {fate.key for fate in found.fates if fate.value == "(not named)"}
    assert unnamed == {
        "network_alpha",
        "timestep_sampling",
        "model_prediction_type",
        "guidance_scale",
        "layers",
    }
    assert found.settings["adapter.targets"] == "kohya"
    theirs.write_text("accelerate launch train_dreambooth_lora_flux.py --rank=4\n", encoding="utf-8")
    assert read_peer("diffusers", theirs).settings["adapter.targets"].startswith("attn,ff.net")
    theirs.write_text(AI_TOOLKIT, encoding="utf-8")
    assert read_peer("ai-toolkit", theirs).settings["adapter.targets"] == "kohya"


def test_a_second_folder_of_ai_toolkit_is_refused_and_not_dropped(tmp_path: Path) -> None:
    theirs = tmp_path / "a.yaml"
    theirs.write_text(
        AI_TOOLKIT.replace("      train:\n", "        - folder_path: more\n      train:\n", 1),
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match="2 datasets"):
        read_peer("ai-toolkit", theirs)


def test_what_became_of_each_key_is_kept_with_the_run(tiny_base: Path, tmp_path: Path) -> None:
    photos, theirs = make_photos(tmp_path / "photos"), tmp_path / "a.toml"
    theirs.write_text(
        f'pretrained_model_name_or_path = "{tiny_base}"\ntrain_data_dir = "{photos}"\nnetwork_dim = 2\n'
        "max_train_steps = 1\nresolution = 64\n",
        encoding="utf-8",
    )
    given = ["--runs", str(tmp_path / "runs"), "--set", "evaluate.steps=2", "--set", "evaluate.num_prompts=0"]
    done = CliRunner().invoke(cli, ["train", "--like", "kohya", str(theirs), *given])
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "runs" / "photos" / "like.json").read_text())
    assert kept["peer"] == "kohya"
    assert {fate["key"] for fate in kept["fates"]} >= {"network_dim", "network_alpha"}


AI_TOOLKIT_PROCESS = """
config:
  process:
    - network: {{type: lora, {network}}}
      datasets: [{{folder_path: photos, {dataset}}}]
      train: {{noise_scheduler: flowmatch, {train}}}
"""


@pytest.mark.parametrize(
    ("given", "became"),
    [
        ({"network": "rank: 8"}, {"adapter.rank": 8, "adapter.alpha": 1.0}),
        ({"network": "linear: 8, alpha: 4"}, {"adapter.rank": 8, "adapter.alpha": 4.0}),
        ({"network": "linear: 8, dropout: 0.1"}, {"adapter.dropout": 0.1}),
        ({"dataset": "flip_x: false, buckets: true"}, {"data.flip": False, "data.buckets": True}),
        (
            {"dataset": "alpha_mask: true, mask_min_value: 0.1"},
            {"data.mask": "alpha", "data.mask_floor": 0.1},
        ),
        ({"train": "lr: 1e-4"}, {"train.loss.timesteps": "logit_normal", "train.loss.shift": 1.0}),
        ({"train": "linear_timesteps: true"}, {"train.loss.timesteps": "uniform", "train.loss.shift": 1.0}),
        ({"train": "timestep_type: weighted"}, {"train.loss.timesteps": "uniform"}),
        ({"train": "ema_config: {use_ema: true}"}, {"train.ema": 0.999}),
        ({"train": "ema_config: {ema_decay: 0.9}"}, {"train.ema": None}),
        ({"train": "lr_scheduler: cosine, max_grad_norm: 0.5"}, {"train.schedule.kind": "cosine"}),
        ({"train": "optimizer_params: {weight_decay: 0.1}"}, {"train.optim.weight_decay": 0.1}),
    ],
)
def test_names_and_defaults_are_those_of_ai_toolkits_own_source(
    given: dict[str, str], became: dict[str, Any], tmp_path: Path
) -> None:
    """``toolkit/config_modules.py``: alpha is 1, times are 'sigmoid', nothing is averaged unless ``use_ema`` is set."""
    path = tmp_path / "theirs.yaml"
    filled = {"network": "linear: 4", "dataset": "resolution: 512", "train": "steps: 10", **given}
    path.write_text(AI_TOOLKIT_PROCESS.format(**filled), encoding="utf-8")
    found = read_peer("ai-toolkit", path)
    assert {key: found.settings.get(key) for key in became} == became
    assert all(fate.words for fate in found.fates if not fate.became)


@pytest.mark.parametrize(
    ("peer", "text", "words"),
    [
        ("kohya", "network_dim = 'wide'", "network_dim: 'wide' is no whole number"),
        ("kohya", "= 3", "not valid TOML"),
        ("ai-toolkit", "config: {name: x}", r"no config\.process"),
        ("ai-toolkit", "a: [", "not valid YAML"),
        ("diffusers", "python train.py", "no --options"),
        ("diffusers", "train.py --rank='4", "not a command line"),
    ],
)
def test_files_that_are_not_of_that_trainer_are_refused(
    peer: PeerName, text: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "theirs"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        read_peer(peer, path)


def test_train_like_says_each_fate_and_flags_win(tmp_path: Path) -> None:
    theirs = tmp_path / "k.toml"
    theirs.write_text(KOHYA, encoding="utf-8")
    shown = CliRunner().invoke(
        cli, ["train", "--like", "kohya", str(theirs), "--runs", str(tmp_path / "runs")]
    )
    assert shown.exit_code != 0  # flux-dev is settings alone
    assert "network_alpha = (not named) → adapter.alpha = 1: kohya's default is 1" in shown.output
    assert "clip_skip = 2 has no counterpart" in shown.output
    both = CliRunner().invoke(cli, ["train", "--like", "kohya", str(theirs), "--config", str(theirs)])
    assert both.exit_code != 0
