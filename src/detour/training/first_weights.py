"""A run that starts at the weights of an adapter file: settings taken from the file, and its factors put in place."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detour.adapter_files.reading import located, read_adapter
from detour.adapter_files.reference_files import read_reference_adapter, read_reference_facts, require_fit
from detour.adapter_methods import FROM_BASE
from detour.adapters.adapter import Adapter, part_of, path_of
from detour.adapters.attach import Attached
from detour.adapters.layers import Layer, LoraLayer
from detour.adapters.reference_weights import NUM_TOKENS, ReferenceWeights
from detour.adapters.targets import PRESETS, AdaptableLayer, adaptable_layers, select
from detour.bases.image_encoder import read_encoder_config
from detour.errors import AdapterError, ConfigError, RunError
from detour.files import sha256_of
from detour.specs import RunSpec
from detour.specs.sources import with_changes
from detour.training.methods import reference_encoder
from detour.training.text_adapter import text_layers

if TYPE_CHECKING:
    from detour.bases.base import Base

TEXT_PARTS = ("text_encoder", "text_encoder_2")


def with_first_weights(spec: RunSpec, base: "Base") -> tuple[RunSpec, tuple[str, ...]]:
    """Take rank, alpha, layers and text encoders from the file that a run starts at, where they were left to it.

    Args:
        spec: as the user gave it.
        base: that is trained on.

    Returns:
        The settings with the file's content written down, and a sentence on it; as they were without a file.

    Raises:
        AdapterError: the file cannot be read.
        ConfigError: another method, several ranks, or a start of its own is asked for too.
        RunError: the file is not what the settings say that it was.
    """
    if not spec.adapter.from_file:
        if spec.adapter.from_sha256:
            raise ConfigError(
                "adapter.from_sha256 is set without a file. Set adapter.from_file, or leave both out."
            )
        return spec, ()
    path = Path(spec.adapter.from_file)
    if spec.adapter.method == "reference":
        return _with_first_reference(spec, base, path)
    adapter = read_adapter(path)
    _refuse_other_method(spec, adapter, path)
    changes: dict[str, Any] = {"adapter.from_sha256": _content(path, spec.adapter.from_sha256)}
    network_part = base.family.network_part
    network = {key: layer for key, layer in adapter.layers.items() if part_of(key) == network_part}
    text = {key: layer for key, layer in adapter.layers.items() if part_of(key) in TEXT_PARTS}
    if not network:
        raise ConfigError(
            f"{path}: adapts text encoders alone, and a run trains the network too. Name another file."
        )
    side = spec.data.resolution
    dead = [re.compile(one) for one in base.dead_by_structure(side if isinstance(side, int) else None)]
    changes |= _sizes(spec, "adapter", network, path)
    if spec.adapter.targets == "auto":
        layers = adaptable_layers(base.meta_network())
        changes["adapter.targets"] = _targets_of(layers, network_part, network, dead)
    if text and not spec.adapter.text_encoder.rank:
        changes |= _sizes(spec, "adapter.text_encoder", text, path)
        part = part_of(next(iter(text)))  # both encoders of SDXL are chosen from by the same names
        of_part = {key: layer for key, layer in text.items() if part_of(key) == part}
        layers = text_layers(base.meta_text()[part])
        changes["adapter.text_encoder.targets"] = _targets_of(layers, part, of_part, dead)
    lost = sorted(set(adapter.words) - set(spec.adapter.tokens.words))
    if lost:
        raise ConfigError(
            f"{path}: has the word '{lost[0]}', which this run does not train. Add --new-word '{lost[0]}=…'."
        )
    note = f"Starts at the weights of {path} ({len(adapter.layers)} layers)."
    return with_changes(spec, changes), (note,)


def load_first_weights(attached: Attached, spec: RunSpec) -> None:
    """Put the factors of the run's first file into the live ones, in place; nothing without a file.

    Raises:
        RunError: the file is gone, or not what it was when the run was planned.
        ConfigError: its layers or ranks are not those that are trained.
    """
    if not spec.adapter.from_file:
        return
    path = Path(spec.adapter.from_file)
    _content(path, spec.adapter.from_sha256)
    if isinstance(attached, ReferenceWeights):
        _load_first_reference(attached, path)
        return
    first, target = read_adapter(path), attached.to_adapter()
    missing, extra = (
        sorted(target.layers.keys() - first.layers.keys()),
        sorted(first.layers.keys() - target.layers.keys()),
    )
    if missing or extra:
        said = (
            f"trains {missing[0]}, which the file has not"
            if missing
            else f"does not train {extra[0]} of the file"
        )
        raise ConfigError(
            f"{path}: has other layers than this run: the run {said} ({len(missing)} and {len(extra)} differ). Leave "
            "--targets and --text-rank to the file."
        )
    words = {word: first.words.get(word, parts) for word, parts in target.words.items()}
    fitted = {key: _at_scale(layer, target.layers[key]) for key, layer in first.layers.items()}
    try:
        attached.load(Adapter(fitted, words=words))
    except AdapterError as error:
        raise ConfigError(
            f"{path}: {error} Leave --rank and --alpha to the file, or resize it first."
        ) from error


def _with_first_reference(spec: RunSpec, base: "Base", path: Path) -> tuple[RunSpec, tuple[str, ...]]:
    """Write down the content of the IP-Adapter that a run starts at, and refuse one that cannot be trained on."""
    facts, _ = read_reference_facts(path)
    require_fit(facts, base, where=str(path))
    width = read_encoder_config(reference_encoder(spec, base)).get("projection_dim")
    if (facts.kind, facts.num_tokens, facts.encoder_width) != ("plain", NUM_TOKENS, width):
        raise ConfigError(
            f"--from {path}: {facts.words}; a run trains the plain kind, {NUM_TOKENS} tokens of an embedding of width "
            f"{width}. Name such a file, or leave --from out."
        )
    changed = with_changes(spec, {"adapter.from_sha256": _content(path, spec.adapter.from_sha256)})
    return changed, (f"Starts at the weights of {path} ({facts.words}).",)


def _load_first_reference(attached: ReferenceWeights, path: Path) -> None:
    first = read_reference_adapter(path)
    try:
        attached.load_weights(first.projection.state_dict(), first.keys, first.values)
    except AdapterError as error:
        raise ConfigError(f"--from {path}: {error} Use an IP-Adapter of the base's family.") from error


def _at_scale(layer: Layer, target: Layer) -> Layer:
    """Rescale ``up`` so that the layer has the same change at the alpha that is trained with."""
    if not isinstance(layer, LoraLayer) or not isinstance(target, LoraLayer) or layer.alpha == target.alpha:
        return layer
    return LoraLayer(down=layer.down, up=layer.up * (layer.alpha / target.alpha), alpha=target.alpha)


def _refuse_other_method(spec: RunSpec, adapter: Adapter, path: Path) -> None:
    kinds = list(adapter.kinds)
    if spec.adapter.method == "full":
        raise ConfigError(
            f"--from {path}: --method full trains the base itself. Merge first: detour merge {path}."
        )
    if spec.adapter.init in FROM_BASE:
        raise ConfigError(
            f"--from {path} with adapter.init {spec.adapter.init}: both say where the weights start. Leave one out."
        )
    if kinds != [spec.adapter.method]:
        found = " and ".join(kinds)
        fix = f"Add --method {kinds[0]}." if len(kinds) == 1 else "Name a file of one method."
        raise ConfigError(
            f"--from {path}: the file is {found}, and this run trains {spec.adapter.method}. {fix}"
        )


def _sizes(spec: RunSpec, section: str, layers: Mapping[str, Layer], path: Path) -> dict[str, Any]:
    """Rank and alpha of the file for a section that leaves them to it."""
    own = spec.adapter if section == "adapter" else spec.adapter.text_encoder
    factored = [
        layer for layer in layers.values() if not getattr(layer, "is_whole", False)
    ]  # LoKr's may be whole
    if not factored:
        return {}
    ranks, alphas = ({getattr(layer, name) for layer in factored} for name in ("rank", "alpha"))
    if len(ranks) > 1:
        listed = ", ".join(map(str, sorted(ranks)))
        raise ConfigError(
            f"--from {path}: its layers have ranks {listed}, and a run trains one rank. Bring them to one first: "
            f"detour resize {path} OUT --rank {min(ranks)}."
        )
    rank = next(iter(ranks))
    if own.rank not in ("auto", 0, rank):
        raise ConfigError(
            f"--from {path}: the file has rank {rank}, and {section}.rank is {own.rank}. Leave it out, or resize the "
            f"file first: detour resize {path} OUT --rank {own.rank}."
        )
    found: dict[str, Any] = {f"{section}.rank": rank}
    if own.alpha == "auto" and not spec.adapter.rslora:
        found[f"{section}.alpha"] = float(max(alphas))
    return found


def _targets_of(
    every: Sequence[AdaptableLayer], part: str, layers: Mapping[str, Layer], dead: Sequence[re.Pattern[str]]
) -> str:
    """The preset that names exactly these layers beside those that cannot learn, or an expression that does."""
    wanted = {path_of(key) for key in layers}
    lost = {layer.path for layer in every if any(one.fullmatch(f"{part}.{layer.path}") for one in dead)}
    for preset in PRESETS:
        if wanted == {layer.path for layer in _selected(every, preset)} - lost:
            return preset
    return f"re:^(?:{'|'.join(re.escape(path) for path in sorted(wanted))})$"


def _selected(layers: Sequence[AdaptableLayer], preset: str) -> Sequence[AdaptableLayer]:
    try:
        return select(layers, preset)
    except ConfigError:  # this model has no such layers
        return []


def _content(path: Path, expected: str) -> str:
    """Hex SHA-256 of the file, or over the files of a folder.

    Raises:
        RunError: it is not the expected one.
    """
    place = located(path)
    files = [place] if place.is_file() else sorted(one for one in place.iterdir() if one.is_file())
    digests = [sha256_of(file) for file in files]
    found = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    if expected and found != expected:
        raise RunError(
            f"{path}: not the adapter that the run began at (its SHA-256 is {found[:12]}…, not {expected[:12]}…). Put "
            "it back, or start another run with --from."
        )
    return found
