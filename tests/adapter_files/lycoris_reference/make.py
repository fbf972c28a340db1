"""What LyCORIS's own modules make of a weight, as numbers in a file.

``python -m tests.adapter_files.lycoris_reference.make`` needs the package ``lycoris-lora`` (with ``einops`` and
``toml``), which nothing else here does. Each case is one module beside a frozen Linear or convolution: the tensors that
it saves, the frozen weight, and the weight that its forward pass amounts to. (LyCORIS 4.1.3's own merge scales LoHa and
LoKr by alpha / rank twice, its forward pass once.)
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PLACE = Path(__file__).with_name("cases.json")

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "locon-linear": ("LoConModule", "linear", {}),
    "locon-conv": ("LoConModule", "conv", {}),
    "locon-conv-cp": ("LoConModule", "conv", {"use_tucker": True}),
    "locon-linear-rs": ("LoConModule", "linear", {"rs_lora": True}),
    "dora-linear": ("LoConModule", "linear", {"weight_decompose": True}),
    "dora-conv": ("LoConModule", "conv", {"weight_decompose": True}),
    "loha-linear": ("LohaModule", "linear", {}),
    "loha-conv": ("LohaModule", "conv", {}),
    "loha-conv-tucker": ("LohaModule", "conv", {"use_tucker": True}),
    "loha-linear-rs": ("LohaModule", "linear", {"rs_lora": True}),
    "dora-loha-linear": ("LohaModule", "linear", {"weight_decompose": True}),
    "lokr-linear": ("LokrModule", "linear", {"lora_dim": 1}),
    "lokr-linear-both": ("LokrModule", "linear", {"lora_dim": 1, "decompose_both": True}),
    "lokr-linear-whole": ("LokrModule", "linear", {"full_matrix": True}),
    "lokr-conv": ("LokrModule", "conv", {"lora_dim": 1}),
    "lokr-conv-tucker": ("LokrModule", "conv", {"lora_dim": 1, "use_tucker": True}),
    "lokr-conv-whole": ("LokrModule", "conv", {"full_matrix": True}),
    "dora-lokr-linear": ("LokrModule", "linear", {"lora_dim": 1, "weight_decompose": True}),
}  # fmt: skip


def make_case(kind: str, layer: str, options: dict[str, Any], *, seed: int) -> dict[str, Any]:
    """One module with random factors: ``file``, ``frozen`` and ``merged`` as nested lists."""
    from lycoris import modules

    torch.manual_seed(seed)
    frozen = nn.Linear(8, 12, bias=False) if layer == "linear" else nn.Conv2d(4, 6, 3, padding=1, bias=False)
    settings = {"lora_dim": 2, "alpha": 0.75, **options}
    module = getattr(modules, kind)("x", frozen, multiplier=1.0, **settings)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name == "dora_scale":
                parameter.mul_(1.0 + torch.rand_like(parameter))
            elif "org_module" not in name:
                parameter.copy_(0.4 * torch.randn_like(parameter))
        module.apply_to()
        weight = _answers(module.eval(), layer)
        file = {name: _plain(tensor) for name, tensor in module.custom_state_dict().items()}
    return {"layer": layer, "file": file, "frozen": _plain(frozen.weight), "merged": _plain(weight)}


def _answers(module: nn.Module, layer: str) -> Tensor:
    """The weight of a linear map, from what it answers to each input alone."""
    if layer == "linear":
        return module(torch.eye(8)).T.contiguous()
    impulses = torch.zeros(4, 4, 3, 3)
    impulses[range(4), range(4), 1, 1] = 1.0
    return module(impulses).flip(2, 3).transpose(0, 1).contiguous()


def make_all() -> dict[str, Any]:
    """Every case by name."""
    return {
        name: make_case(kind, layer, options, seed=index)
        for index, (name, (kind, layer, options)) in enumerate(CASES.items())
    }


def _plain(tensor: Tensor) -> Any:
    """Nested lists of float32 numbers, eight digits: enough to hold 1e-6."""
    return _rounded(tensor.detach().float().tolist())


def _rounded(value: Any) -> Any:
    return [_rounded(one) for one in value] if isinstance(value, list) else float(f"{value:.8g}")


if __name__ == "__main__":
    PLACE.write_text(json.dumps(make_all(), separators=(",", ":")) + "\n", encoding="utf-8")
