"""Lab 8's ward: four adapters that do nothing, each for another reason, and a sound one."""

import pytest
import torch
from torch import Tensor, nn

from detour.adapters.adapter import Adapter, LoraLayer
from detour.labs.patients import Patient, ward


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Linear(4, 4)
        self.down_blocks = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.down_blocks[0](self.conv_in(x))
        return first


X = torch.ones(1, 4)


@pytest.fixture
def model() -> Block:
    torch.manual_seed(0)
    return Block().requires_grad_(False)


def patients_of(model: Block) -> dict[str, Patient]:
    another = Block().requires_grad_(False)
    another.load_state_dict(model.state_dict())
    layer = LoraLayer(down=torch.ones(2, 4), up=torch.ones(4, 2), alpha=2.0)
    return ward(model, another, Adapter({"unet.conv_in": layer, "unet.down_blocks.0": layer}))


@pytest.mark.parametrize("name", ["A", "B", "D", "E"])
def test_an_ill_adapter_is_loaded_without_complaint_and_changes_nothing(model: Block, name: str) -> None:
    patient, plain = patients_of(model)[name], model(X)
    with patient.loaded() as message:
        assert message == "2 layers loaded"
        assert torch.equal(patient.drawing(X), plain)


def test_the_sound_adapter_changes_the_output_and_is_gone_afterwards(model: Block) -> None:
    patient, plain = patients_of(model)["C"], model(X)
    with patient.loaded():
        assert not torch.allclose(patient.drawing(X), plain)
    assert torch.equal(model(X), plain)
    assert isinstance(model.conv_in, nn.Linear)
