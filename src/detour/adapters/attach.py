"""Put an adapter beside the frozen layers of a model and take it away again.

PEFT does the forward pass of plain LoRA; layers of other kinds add their change in a forward hook.
"""

import contextlib
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from detour.adapter_methods import FROM_BASE, Start
from detour.adapter_methods import AdapterMethod as Method
from detour.adapters.adapter import Adapter, Layer, LoraLayer, part_of, path_of
from detour.adapters.fixed_layers import FixedLayer, has_adapter_hook
from detour.adapters.places import find_layer, find_path
from detour.adapters.start import lora_down
from detour.adapters.trainable_layers import (
    ALPHA_DIGITS,
    FreshLayer,
    TrainableLayer,
    make_trainable,
    plain_copy,
)
from detour.errors import AdapterError

if TYPE_CHECKING:
    from detour.adapters.targets import AdaptableLayer


@dataclass(frozen=True)
class _Slot:
    """One adapted layer: its key and the module that holds it."""

    key: str
    parent: nn.Module
    child: str

    @property
    def layer(self) -> Any:
        """PEFT's wrapper (``peft.tuners.lora.LoraLayer``) around the frozen layer."""
        return getattr(self.parent, self.child)


class Attached:
    """An adapter that stands beside the layers of one or more models.

    Not for use from two threads at once on the same model: PEFT keeps the active adapters in the modules.
    """

    starts_silent = True
    """Whether it adds nothing at the start, so that some factors have no gradient before the first step."""

    def __init__(
        self,
        name: str,
        slots: Sequence[_Slot],
        frozen: Sequence[tuple[nn.Parameter, bool]],
        fixed: Sequence[FixedLayer] = (),
        trainable: Sequence[TrainableLayer] = (),
    ) -> None:
        self.name = name
        self._slots = list(slots)
        self._fixed_layers = list(fixed)
        self._trainable = list(trainable)
        self._frozen = list(frozen)
        self.words: dict[str, dict[str, nn.Parameter]] = {}
        """New word → text part → live vectors, (n, D) float32; whoever encodes prompts puts them in."""

    @property
    def factors(self) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        """Layer key → (down, up), the live float32 parameters, in the order of attachment; plain LoRA only."""
        return {
            slot.key: (slot.layer.lora_A[self.name].weight, slot.layer.lora_B[self.name].weight)
            for slot in self._slots
        }

    @property
    def peft_layers(self) -> list[Any]:
        """PEFT's wrappers (``peft.tuners.lora.LoraLayer``), in the order of attachment."""
        return [slot.layer for slot in self._slots]

    @property
    def trainable_layers(self) -> list[TrainableLayer]:
        """Layers that are not plain LoRA, whose factors stand outside the model."""
        return list(self._trainable)

    @property
    def named_factors(self) -> dict[tuple[str, str], nn.Parameter]:
        """(layer key, factor) → live parameter, for every method: "down" and "up", "magnitude", "w1_a" …

        Layers stand in the order of attachment.
        """
        pairs = self.factors.items()
        plain = {
            (key, name): factor
            for key, pair in pairs
            for name, factor in zip(("down", "up"), pair, strict=True)
        }
        others = {
            (trainable.key, name): factor
            for trainable in self._trainable
            for name, factor in trainable.factors.items()
        }
        words = {
            (f"words.{word}", part): v for word, parts in self.words.items() for part, v in parts.items()
        }
        return plain | others | words

    @property
    def changed_tensors(self) -> frozenset[str]:
        """Tensors of the model itself that training changes: none."""
        return frozenset()

    @property
    def _hooks(self) -> list[FixedLayer | TrainableLayer]:
        return [*self._fixed_layers, *self._trainable]

    def parameters(self) -> list[nn.Parameter]:
        """List the factors of :attr:`named_factors`; a list, so that it cannot be used up."""
        return list(self.named_factors.values())

    def to_adapter(self, metadata: Mapping[str, str] | None = None) -> Adapter:
        """A copy of the factors on the CPU in float32; the strength is not part of it."""
        layers: dict[str, Layer] = {
            slot.key: LoraLayer(
                down=plain_copy(slot.layer.lora_A[self.name].weight),
                up=plain_copy(slot.layer.lora_B[self.name].weight),
                alpha=float(slot.layer.lora_alpha[self.name]),
            )
            for slot in self._slots
        }
        layers |= {fixed.key: fixed.layer for fixed in self._fixed_layers}
        layers |= {trainable.key: trainable.layer() for trainable in self._trainable}
        words = {
            word: {part: plain_copy(v) for part, v in parts.items()} for word, parts in self.words.items()
        }
        return Adapter(layers, dict(metadata or {}), words=words)

    def load(self, adapter: Adapter) -> None:
        """Copy the factors of ``adapter`` into the live parameters, in place.

        Raises:
            AdapterError: the layers, kinds, ranks or alphas are not the same.
        """
        factors = self.factors
        trainable = {one.key: one for one in self._trainable}
        if set(factors) | set(trainable) != set(adapter.layers):
            raise AdapterError(
                f"the file's {len(adapter.layers)} layers and the {len(factors) + len(trainable)} attached ones differ."
            )
        for key, one in trainable.items():
            one.load(adapter.layers[key])
        rest = Adapter({key: layer for key, layer in adapter.layers.items() if key not in trainable})
        layers = rest.plain_layers(purpose="loading into an attached adapter")
        for slot in self._slots:
            layer, (down, up) = layers[slot.key], factors[slot.key]
            same_alpha = isclose(layer.alpha, float(slot.layer.lora_alpha[self.name]), rel_tol=ALPHA_DIGITS)
            if layer.rank != down.shape[0] or not same_alpha:
                raise AdapterError(f"'{slot.key}' has another rank or alpha in the adapter than attached.")
            down.data.copy_(layer.down.reshape(down.shape))
            up.data.copy_(layer.up.reshape(up.shape))
        for word, parts in self.words.items():
            for part, vectors in parts.items():
                vectors.data.copy_(adapter.words[word][part])

    def set_weight(self, weight: float) -> None:
        """Strength of the whole adapter; 1 is as trained, 0 is no effect."""
        for slot in self._slots:
            slot.layer.scaling[self.name] = (
                weight * slot.layer.lora_alpha[self.name] / slot.layer.r[self.name]
            )
        for fixed in self._hooks:
            fixed.weight = weight

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Switch this adapter off inside the block; other adapters stay active."""
        before = [(slot.layer, list(slot.layer.active_adapters)) for slot in self._slots]
        were = [(fixed, fixed.active) for fixed in self._hooks]
        try:
            for fixed, _ in were:
                fixed.active = False
            for layer, active in before:
                layer._active_adapter = [name for name in active if name != self.name]
            yield
        finally:
            for layer, active in before:
                layer._active_adapter = active
            for fixed, active_before in were:
                fixed.active = active_before

    def joined(self, *others: "Attached") -> "Attached":
        """This and the others as one, in this order: adapters of one name beside several models."""
        every = (self, *others)
        if not others:
            return self
        return Attached(
            self.name,
            [slot for one in every for slot in one._slots],
            [pair for one in every for pair in one._frozen],
            [fixed for one in every for fixed in one._fixed_layers],
            [trainable for one in every for trainable in one._trainable],
        )

    def detach(self) -> None:
        """Take the adapter away; where no other one is left, the same plain modules stand again."""
        for slot in self._slots:
            others = [name for name in slot.layer.lora_A if name != self.name]
            if others:
                _remove_one(slot.layer, self.name, others)
            else:
                setattr(slot.parent, slot.child, slot.layer.base_layer)
        self._slots.clear()
        for fixed in self._hooks:
            fixed.remove()
        self._fixed_layers.clear()
        self._trainable.clear()
        for parameter, requires_grad in self._frozen:
            parameter.requires_grad_(requires_grad)


def attach_new(
    model: nn.Module,
    part: str,
    layers: "Sequence[AdaptableLayer]",
    *,
    rank: int,
    alpha: float,
    method: Method = "lora",
    dropout: float = 0.0,
    init: Start = "kaiming",
    lokr_factor: int | None = None,
    seed: int = 0,
    name: str = "default",
) -> Attached:
    """Freeze ``model`` and put a fresh, trainable adapter beside the given layers.

    One factor of each layer starts at zero, so that the model's output is unchanged; with PiSSA and OLoRA a
    copy of the start is subtracted instead. The start is a function of (seed, layer, for those two the frozen
    weight) alone: other layers, their number and order do not change it. Adapter weights are float32
    whatever the base's dtype, because updates at usual rates vanish in bfloat16. Dropout follows
    ``model.train()``.

    Args:
        model: a UNet or text encoder.
        part: "unet", "text_encoder" or "text_encoder_2".
        layers: what is adapted (their ``path`` is read).
        rank: width of the detour, the same for every layer.
        alpha: numerator of the scale.
        method: what each layer is.
        dropout: share of the adapter's inputs that are zeroed in training mode; plain LoRA only.
        init: "kaiming": ``down`` uniform within ±1/√fan_in (PEFT's default); "gaussian": N(0, (1/rank)²);
            "pissa" and "olora": plain LoRA on Linear layers that starts from the frozen weight's own factors.
            LoHa and LoKr have starts of their own.
        lokr_factor: wanted size of LoKr's first matrix; None takes the nearest to a square.
        seed: of the start.
        name: one adapter's name among those on the model.

    Raises:
        AdapterError: no layers, a path that is not there, a name in use, or a method that cannot do what is asked.
    """
    if not layers:
        raise AdapterError(
            f"no layer of the {part} was chosen, so there is nothing to adapt. Check the targets."
        )
    for layer in layers:
        if find_path(model, layer.path) is None:
            raise AdapterError(f"the {part} has no layer '{layer.path}'. Choose layers of this base.")
    keys = [f"{part}.{layer.path}" for layer in layers]
    if method != "lora" or init in FROM_BASE:
        if dropout:
            raise AdapterError("dropout is for plain LoRA from a random start. Set adapter.dropout to 0.")
        fresh = FreshLayer(
            method=method, rank=rank, alpha=alpha, init=init, seed=seed, lokr_factor=lokr_factor
        )
        return _attach_trainable(model, keys, fresh, _for_peft(name))
    sizes = dict.fromkeys(keys, (rank, alpha))
    attached = _inject({part: model}, sizes, dropout=dropout, name=name)
    for key, (down, up) in attached.factors.items():
        down.data = lora_down(tuple(down.shape), init=init, seed=seed, key=key).to(down.device)
        up.data = torch.zeros_like(up, dtype=torch.float32)
    return attached


def attach_adapter(
    models: Mapping[str, nn.Module],
    adapter: Adapter,
    weight: float = 1.0,
    *,
    name: str = "default",
    trainable: bool = False,
) -> Attached:
    """Put a finished adapter beside the layers it names. Several at once work under different names.

    Args:
        models: ``{"unet": …, "text_encoder": …}``; must have every part that the adapter has.
        adapter: what is attached; its tensors are copied.
        weight: strength; 1 is as trained.
        name: one adapter's name among those on the models.
        trainable: let its factors take gradients.

    Raises:
        AdapterError: no layers, a part or layer that is not there, or a name in use.
        ShapeMismatch: a layer has another width. In all cases the models are unchanged.
    """
    if not adapter.layers:
        raise AdapterError("the adapter has no layers, so there is nothing to attach.")
    if trainable:
        adapter.plain_layers(purpose="training")
    modules = {key: find_layer(models, key, layer) for key, layer in adapter.layers.items()}
    plain = {key: layer for key, layer in adapter.layers.items() if isinstance(layer, LoraLayer)}
    name = _for_peft(name)
    if any(has_adapter_hook(module, name) for module in modules.values()):
        raise _taken(name)
    sizes = {key: (layer.rank, layer.alpha) for key, layer in plain.items()}
    attached = _inject(models, sizes, dropout=0.0, name=name)
    for key, (down, up) in attached.factors.items():
        layer = plain[key]
        down.data = layer.down.detach().to(down.device, torch.float32, copy=True).reshape(down.shape)
        up.data = layer.up.detach().to(up.device, torch.float32, copy=True).reshape(up.shape)
        down.requires_grad_(trainable)
        up.requires_grad_(trainable)
    attached._fixed_layers += [
        FixedLayer(key, modules[key], layer, name=name)
        for key, layer in adapter.layers.items()
        if key not in plain
    ]
    attached.set_weight(weight)
    return attached


def _attach_trainable(model: nn.Module, keys: Sequence[str], fresh: FreshLayer, name: str) -> Attached:
    modules: dict[str, Any] = {}
    for key in keys:
        module = model.get_submodule(str(find_path(model, path_of(key))))
        modules[key] = getattr(module, "base_layer", module)  # under PEFT's wrapper when it has an adapter
        if has_adapter_hook(modules[key], name) or name in getattr(module, "lora_A", {}):
            raise _taken(name)
    frozen = [(parameter, parameter.requires_grad) for parameter in _own_parameters(model)]
    attached = Attached(name, [], frozen)
    try:
        for key, module in modules.items():
            attached._trainable.append(make_trainable(key, module, fresh, name=name))
    except AdapterError:
        attached.detach()
        raise
    for parameter, _ in frozen:
        parameter.requires_grad_(False)
    return attached


def _own_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The model's, without those of adapters on it."""
    return [parameter for name, parameter in model.named_parameters() if ".lora_" not in name]


def _for_peft(name: str) -> str:
    return name.replace(".", "_")  # PEFT keeps adapters in a ModuleDict, whose keys have no dots


def _taken(name: str) -> AdapterError:
    return AdapterError(f"an adapter named '{name}' is attached already. Detach it or choose another name.")


def _inject(
    models: Mapping[str, nn.Module], sizes: Mapping[str, tuple[int, float]], *, dropout: float, name: str
) -> Attached:
    """Let PEFT wrap the layers of ``sizes`` (key → rank, alpha) in all models; all adapters stay active."""
    name = _for_peft(name)
    parts = list(dict.fromkeys(part_of(key) for key in sizes))
    frozen = [
        (parameter, parameter.requires_grad) for part in parts for parameter in _own_parameters(models[part])
    ]
    slots: list[_Slot] = []
    paths: dict[str, dict[str, tuple[int, float]]] = {part: {} for part in parts}
    for key, size in sizes.items():
        model = models[part_of(key)]
        path = str(find_path(model, path_of(key)))
        if name in getattr(model.get_submodule(path), "lora_A", {}):
            raise _taken(name)
        paths[part_of(key)][path] = size
        parent, _, child = path.rpartition(".")
        slots.append(_Slot(key, model.get_submodule(parent), child))
    for part in parts:
        _inject_into(models[part], paths[part], dropout, name)
    return Attached(name, slots, frozen)


def _inject_into(model: nn.Module, paths: Mapping[str, tuple[int, float]], dropout: float, name: str) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    rank, alpha = Counter(paths.values()).most_common(1)[0][0]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # declared int, takes any number
        lora_dropout=dropout,
        target_modules=_exactly(paths),  # a regex is matched in full; names in a list would match as suffixes
        rank_pattern={_exactly(group): r for r, group in _groups(paths, 0).items() if r != rank},
        alpha_pattern={_exactly(group): a for a, group in _groups(paths, 1).items() if a != alpha},
    )
    layer: Any
    wrapped: list[Any] = [module for module in model.modules() if getattr(module, "lora_A", None)]
    before = [(layer, list(layer.active_adapters)) for layer in wrapped]
    # PEFT draws a start, which is replaced: the caller's random numbers stay as they were.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT 0.21 warns that it could not merge into such a layer; nothing is ever merged into a quantised base.
        warnings.filterwarnings("ignore", message="TorchaoLoraLinear was instantiated")
        inject_adapter_in_model(config, model, adapter_name=name)
    del model.peft_config  # left on the model, it would make a second injection warn
    # PEFT makes the new name the only active one, also on layers that it does not adapt.
    for layer, active in before:
        layer._active_adapter = active
    for path in paths:
        layer = model.get_submodule(path)
        layer._active_adapter = list(layer.lora_A)
        layer.train(layer.base_layer.training)


def _exactly(paths: Iterable[str]) -> str:
    """A regular expression for these paths and nothing else."""
    return "(?:" + "|".join(re.escape(path) for path in paths) + ")"


def _groups(paths: Mapping[str, tuple[int, float]], which: int) -> dict[Any, list[str]]:
    groups: dict[Any, list[str]] = {}
    for path, size in paths.items():
        groups.setdefault(size[which], []).append(path)
    return groups


def _remove_one(layer: Any, name: str, others: list[str]) -> None:
    layer._active_adapter = others  # so that PEFT need not choose one, which it does with a warning
    layer.delete_adapter(name)
