from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from detour.adapter_methods import FROM_BASE, METHODS, AdapterMethod, Method, facts_of
from detour.adapters.arithmetic import layer_parameters
from detour.adapters.targets import AdaptableLayer, adaptable_layers
from detour.adapters.trainable_layers import FreshLayer, make_trainable
from detour.bases.base import open_base
from detour.bases.single_file_writing import write_single_file
from detour.errors import AdapterError, ConfigError
from detour.specs import RunSpec, load_run_spec
from detour.training.methods import check_layers
from detour.training.resolving import resolve


def resolved(base: str = "pocket", **flags: Any) -> RunSpec:
    spec = load_run_spec(flags={key.replace("__", "."): value for key, value in flags.items()})
    return resolve(spec, open_base(base), ["a"] * 9, name="photos", device="cpu").spec


def test_a_method_has_a_rate_of_its_own_unless_one_is_given() -> None:
    lora = resolved().train.optim.lr
    for method in ("dora", "loha", "lokr"):
        assert resolved(adapter__method=method).train.optim.lr == pytest.approx(lora * METHODS[method].rate)
    assert resolved(adapter__init="pissa").train.optim.lr == pytest.approx(lora * FROM_BASE["pissa"])
    assert resolved(adapter__method="loha", train__optim__lr=0.5).train.optim.lr == 0.5


def test_own_scales_and_own_rates_of_factors_leave_the_step_as_large_as_plain_loras() -> None:
    lora = resolved().train.optim.lr
    assert resolved(adapter__rslora=True, adapter__rank=16).train.optim.lr == pytest.approx(lora / 4)
    assert resolved(train__optim__up_rate=16.0).train.optim.lr == pytest.approx(lora / 4)


def test_starts_from_the_base_take_linear_layers_where_the_goal_would_take_all() -> None:
    assert resolved().adapter.targets == "all"
    assert resolved(adapter__init="pissa").adapter.targets == "linear"
    assert resolved("sd15", adapter__init="olora").adapter.targets == "attn"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            {"adapter.method": "lokr", "adapter.init": "pissa"},
            r"start of plain LoRA; lokr has its own.*Set adapter",
        ),
        (
            {"adapter.method": "dora", "adapter.dropout": 0.1},
            r"with dora the base's own answer.*Set adapter.dropout to 0",
        ),
        ({"adapter.init": "pissa", "adapter.dropout": 0.1}, r"with pissa .*Set adapter.dropout to 0"),
        ({"adapter.method": "loha", "adapter.rslora": True}, r"product of two factors, and loha is none"),
        ({"adapter.method": "lokr", "train.optim.up_rate": 16.0}, r"lokr has no 'up' factor. Set it to 1"),
        ({"adapter.method": "loha", "adapter.init": "gaussian"}, r"loha has a start of its own"),
        ({"adapter.method": "full", "base.dtype": "bf16"}, r"base.dtype is bf16, .* Set --dtype fp32"),
        ({"adapter.method": "full", "adapter.text_encoder.rank": 4}, r"--method full has none. Set it to 0"),
        ({"adapter.method": "full", "train.optim.up_rate": 2.0}, r"full has no 'up' factor"),
        ({"adapter.lokr_factor": 4}, r"lokr_factor is 4, but this is lora. Set it to 0"),
        ({"adapter.method": "loha", "adapter.formats": ("diffusers",)}, "cannot hold"),
        ({"adapter.method": "full", "adapter.formats": ("peft",)}, "no adapter file"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve(load_run_spec(flags=flags), open_base("pocket"), ["a"] * 9, name="photos", device="cpu")


def test_full_fine_tuning_takes_everything_in_fp32_and_says_what_it_costs() -> None:
    spec = load_run_spec(flags={"adapter.method": "full"})
    made = resolve(spec, open_base("pocket"), ["a"] * 9, name="photos", device="cpu")
    assert (made.spec.adapter.targets, made.spec.base.dtype) == ("all", "fp32")
    assert any("16 bytes a parameter" in note for note in made.notes)


def test_full_fine_tuning_of_a_single_file_is_refused(tmp_path: Path, tiny_base: Path) -> None:
    single = write_single_file(open_base(str(tiny_base)), tmp_path / "one.safetensors")
    spec = load_run_spec(flags={"adapter.method": "full", "base.name": str(single)})
    with pytest.raises(
        ConfigError, match=r"'.*one.safetensors' is a single file. Name a base that is a folder"
    ):
        resolve(spec, open_base(str(single)), ["a"] * 9, name="photos", device="cpu")


def test_only_starts_from_the_base_mind_convolutions() -> None:
    layers = [AdaptableLayer(path="a.conv", kind="conv", in_features=4, out_features=4, kernel=(3, 3))]
    check_layers(resolved(adapter__method="dora").adapter, layers)
    with pytest.raises(ConfigError, match=r"1 convolutions \(a.conv\)"):
        check_layers(resolved(adapter__init="pissa", adapter__targets="conv").adapter, layers)


def test_the_table_of_methods_holds_every_method_and_an_unknown_one_raises() -> None:
    assert tuple(METHODS) == get_args(Method)
    assert set(get_args(AdapterMethod)) == set(METHODS) - {"full", "reference"}
    with pytest.raises(ConfigError, match=r"there is no method 'lohaa'\. Did you mean 'loha'"):
        facts_of("lohaa")


def test_nothing_falls_through_to_another_method() -> None:
    linear = torch.nn.Linear(4, 4)
    fresh = FreshLayer(method="vera", rank=2, alpha=2.0, init="kaiming", seed=0, lokr_factor=None)  # type: ignore[arg-type]
    with pytest.raises(AdapterError, match="no trainable layer is known for method 'vera'"):
        make_trainable("unet.a", linear, fresh, name="default")
    layer = adaptable_layers(torch.nn.Sequential(linear))[0]
    with pytest.raises(AdapterError, match="no count of parameters is known for method 'vera'"):
        layer_parameters(layer, 2, "vera")  # type: ignore[arg-type]
