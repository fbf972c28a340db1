"""What inspecting a base returns: its parts, blocks and layers, and what adapters beside them cost."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from detour.adapter_methods import AdapterMethod as Method


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PartInfo(_Figures):
    """A part of the base and its size."""

    name: str
    kind: str
    parameters: int


class GroupInfo(_Figures):
    """Layers of one kind in one block."""

    kind: str
    layers: int
    adapted: int


class BlockInfo(_Figures):
    """One block of the network, in the order of the forward pass."""

    name: str
    side: int
    """Side of its feature map at the base's own picture size; of a transformer, of its grid of patches."""
    parameters: int
    adapter_parameters: int
    """Parameters that the targets add at the first rank."""
    groups: tuple[GroupInfo, ...]


class LayerInfo(_Figures):
    """One layer that can take an adapter."""

    path: str
    kind: Literal["linear", "conv"]
    in_features: int
    out_features: int
    kernel: tuple[int, int]
    usable_rank: int
    selected: bool


class AdapterCost(_Figures):
    """One choice of layers at one rank."""

    targets: str
    modules: int
    rank: int
    parameters: int
    share: float
    """Share of all parameters of UNet and adapter together."""
    file_bytes: dict[str, int]
    """By dtype; header and metadata come on top."""
    trained_modules: int
    """Modules that are trained, without those that can get no gradient by structure."""
    trained_parameters: int


class BaseInspection(_Figures):
    """Everything that ``detour inspect`` knows."""

    name: str
    identity: str
    family: str
    title: str
    native_size_px: int
    latent_size: int
    latent_channels: int
    cross_attention_width: int
    recommended_guidance: float
    prediction: str
    has_weights: bool
    targets: str
    method: Method
    parts: tuple[PartInfo, ...]
    blocks: tuple[BlockInfo, ...]
    layers: tuple[LayerInfo, ...]
    costs: tuple[AdapterCost, ...]
    """Costs of the targets first, then of each preset, at every rank."""
    warnings: tuple[str, ...]

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)
