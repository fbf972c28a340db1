"""Put the frozen network, its adapter and the optimizer together, ready for the loop."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from detour.adapters.adapter import DENOISERS, part_of
from detour.adapters.arithmetic import stabilised_alpha
from detour.adapters.attach import Attached, attach_new
from detour.adapters.full import attach_full
from detour.adapters.fused import use_fused
from detour.adapters.reference_weights import attach_reference
from detour.adapters.targets import AdaptableLayer, adaptable_layers, select
from detour.bases.denoiser import Denoiser, make_denoiser
from detour.bases.families import dead_in_transformer
from detour.bases.hardware import torch_dtype
from detour.bases.quantize import Quantized, quantize_linears
from detour.data.finding import counted
from detour.diffusion.noise import NoisePlan
from detour.diffusion.objective import Objective
from detour.diffusion.process import Process, RectifiedFlow, TimeLaw
from detour.errors import ConfigError
from detour.specs.resolved import ResolvedLoss, ResolvedRun
from detour.specs.run import RunSpec
from detour.training.attention import use_training_attention
from detour.training.batches import BatchPlan
from detour.training.cache import TrainingData
from detour.training.distillation import Consistency, DistillationLoss
from detour.training.ema import Ema
from detour.training.flat import FlatParameters, ParameterGroup
from detour.training.frozen import use_frozen_paths
from detour.training.library_optim import new_optimizer
from detour.training.loop import TrainState
from detour.training.loss_scale import LossScale
from detour.training.methods import check_layers, has_up
from detour.training.processes import WHOLE, Share
from detour.training.rates import learning_rate
from detour.training.resolving import check_rank
from detour.training.step import TrainingLoss

if TYPE_CHECKING:
    from detour.bases.base import Base


@dataclass(frozen=True)
class Targets:
    """Which layers get an adapter.

    Attributes:
        layers: those that can learn.
        dead: keys of those that the targets name and that can get no gradient in this base at this size.
        notes: what the user should know.
    """

    layers: tuple[AdaptableLayer, ...]
    dead: tuple[str, ...]
    notes: tuple[str, ...]


def choose_targets(model: nn.Module, base: "Base", spec: ResolvedRun) -> Targets:
    """Select the layers of a resolved run; works on the meta device.

    Raises:
        ConfigError: the targets match nothing, nothing that can learn, or the rank is too large for all of them.
    """
    part = base.family.network_part
    chosen = select(adaptable_layers(model), spec.adapter.targets)
    patterns = [re.compile(pattern) for pattern in base.dead_by_structure(spec.data.resolution)]
    dead = tuple(
        f"{part}.{layer.path}"
        for layer in chosen
        if any(p.fullmatch(f"{part}.{layer.path}") for p in patterns)
    )
    layers = tuple(layer for layer in chosen if f"{part}.{layer.path}" not in dead)
    if not layers:
        raise ConfigError(
            f"adapter.targets '{spec.adapter.targets}' matches only layers that can get no gradient at "
            f"{spec.data.resolution} px ({', '.join(dead[:3])}). Choose others, e.g. --targets attn."
        )
    check_layers(spec.adapter, layers)
    notes = check_rank(spec.adapter.rank, spec.adapter.targets, layers) if has_up(spec.adapter) else []
    if dead:
        are = "is" if len(dead) == 1 else "are"
        notes.append(
            f"{counted(len(dead), 'layer')} can get no gradient by structure and {are} left out: {', '.join(dead)}."
        )
    if spec.adapter.dropout > 0:
        notes.append("Adapter dropout trains through PEFT's own forward, which is slower than ours.")
    return Targets(layers, dead, tuple(notes))


def as_trained(base: "Base", spec: RunSpec) -> "Base":
    """The base with the noise schedule that a resolved run trains on; pictures are drawn with the same one.

    Zero terminal SNR: the last timestep is pure noise, and samplers must begin there (trailing spacing).

    Source: Lin et al. 2023, arXiv:2305.08891, sections 3.1 and 3.3.
    """
    return base.with_zero_terminal_snr() if spec.train.loss.zero_terminal_snr else base


def load_denoiser(base: "Base", spec: ResolvedRun) -> Denoiser:
    """Load the network of a resolved run in its precision, ready to be trained beside."""
    device, dtype = spec.base.device, torch_dtype(spec.base.dtype)
    network, quantized = _load_network(base, spec, dtype, device)
    denoiser = make_denoiser(base, network, device=device, dtype=dtype, autocast=True, quantized=quantized)
    return replace(denoiser, process=process_in_training(denoiser.process, spec.train.loss))


def _load_network(
    base: "Base", spec: ResolvedRun, dtype: torch.dtype, device: str
) -> tuple[nn.Module, Quantized | None]:
    quantize, quantized = spec.base.quantize, None
    network: Any = base.load_network(dtype, device if quantize == "none" else "cpu")
    if quantize != "none":
        quantized = quantize_linears(network, quantize, dtype=dtype, device=device)
    if spec.train.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    return network, quantized


def compile_blocks(network: Any, *, backend: str = "inductor") -> None:
    """Compile the transformer blocks, each kind once: minutes less than the whole network, and as fast (diffusers)."""
    network.compile_repeated_blocks(backend=backend)


def attach_trainable(
    denoiser: Denoiser,
    layers: Sequence[AdaptableLayer],
    spec: ResolvedRun,
    *,
    embedding_width: int | None = None,
) -> Attached:
    """Put a fresh adapter beside the layers and let it train through the fastest exact paths.

    Args:
        denoiser: of the run.
        layers: that get one; an IP-Adapter stands beside every cross-attention.
        spec: of the run.
        embedding_width: of the pictures' embeddings, which an IP-Adapter reads.
    """
    use_training_attention(denoiser.network, device=denoiser.device, dtype=denoiser.dtype)
    adapter, rank = spec.adapter, spec.adapter.rank
    if adapter.method == "full":
        network: Any = denoiser.network
        return attach_full(
            denoiser.network,
            denoiser.part,
            layers,
            with_others=adapter.targets == "all",
            dead=dead_in_transformer(dict(network.config)),
        )
    if adapter.method == "reference":
        assert embedding_width is not None, "an IP-Adapter reads embeddings"
        made = attach_reference(
            denoiser.network, denoiser.part, encoder_width=embedding_width, seed=spec.seed
        )
        use_frozen_paths(denoiser.network)
        return made
    alpha = adapter.alpha
    attached = attach_new(
        denoiser.network,
        denoiser.part,
        list(layers),
        rank=rank,
        alpha=stabilised_alpha(alpha, rank) if adapter.rslora else alpha,
        method=adapter.method,
        dropout=adapter.dropout,
        init=adapter.init,
        lokr_factor=adapter.lokr_factor or None,
        seed=spec.seed,
    )
    use_fused(attached)
    use_frozen_paths(denoiser.network)
    if spec.train.compile and denoiser.device.startswith("cuda"):
        compile_blocks(denoiser.network)
    return attached


def parameter_groups(attached: Attached, part: str, *, rate: float, up_rate: float) -> list[ParameterGroup]:
    """A part's factors as groups with their rates: one, or two where ``up`` has its own (LoRA+).

    Args:
        attached: the adapter in training.
        part: of the base; names the group, that of ``up`` gets ``.up`` behind it.
        rate: multiple of the run's rate.
        up_rate: rate of ``up`` as a multiple of that of the other factors.

    Source: Hayou et al. 2024, arXiv:2402.12354, section 4.
    """
    factors = {place: factor for place, factor in attached.named_factors.items() if part_of(place[0]) == part}
    ups = tuple(factor for (_, kind), factor in factors.items() if kind == "up")
    if up_rate == 1.0 or not ups:
        return [ParameterGroup(part, tuple(factors.values()), rate)]
    others = tuple(factor for (_, kind), factor in factors.items() if kind != "up")
    return [ParameterGroup(part, others, rate), ParameterGroup(f"{part}.up", ups, rate * up_rate)]


def make_state(attached: Attached, spec: ResolvedRun) -> TrainState:
    """Flat weights, optimizer and schedule of a resolved run, at step 0."""
    tokens, up_rate = spec.adapter.tokens, spec.train.optim.up_rate
    rates = {**dict.fromkeys(DENOISERS, 1.0), "words": tokens.rate}
    groups = [
        group
        for part in dict.fromkeys(part_of(key) for key, _ in attached.named_factors)
        for group in parameter_groups(
            attached, part, rate=rates.get(part, spec.adapter.text_encoder.rate), up_rate=up_rate
        )
    ]
    flat = FlatParameters(
        [replace(one, weight_decay=tokens.weight_decay) if one.name == "words" else one for one in groups]
    )
    optim, schedule = spec.train.optim, spec.train.schedule
    rate = partial(
        learning_rate,
        peak=optim.lr,
        kind=schedule.kind,
        warmup=schedule.warmup,
        steps=spec.train.steps,
        cycles=schedule.cycles,
    )
    return TrainState(
        flat=flat,
        optimizer=new_optimizer(flat, optim),
        rate=rate,
        ema=Ema(flat.values, decay=spec.train.ema) if spec.train.ema else None,
        scale=LossScale() if spec.base.dtype == "fp16" else None,
    )


def law_of(loss: ResolvedLoss) -> TimeLaw:
    """The law by which a resolved run draws times."""
    return TimeLaw(name=loss.timesteps, mean=loss.logit_mean, std=loss.logit_std, scale=loss.mode_scale)


def process_in_training(process: Process, loss: ResolvedLoss) -> Process:
    """The process with the shift of a resolved run, which moves the times of a rectified flow."""
    return replace(process, shift=loss.shift) if isinstance(process, RectifiedFlow) else process


def make_loss(
    denoiser: Denoiser,
    data: TrainingData,
    spec: ResolvedRun,
    share: Share = WHOLE,
    *,
    attached: Attached | None = None,
) -> TrainingLoss:
    """The loss of a resolved run, on this process's share of each micro-batch.

    Args:
        denoiser: with the adapter beside its layers.
        data: what is shown.
        spec: of the run.
        share: of this process.
        attached: the adapter, which distillation switches off to ask the base.
    """
    loss = spec.train.loss
    plan = BatchPlan(
        seed=spec.seed,
        batch=spec.train.batch,
        grad_accum=spec.train.grad_accum,
        caption_dropout=loss.caption_dropout,
        process=denoiser.process,
        noise=NoisePlan(
            law=law_of(loss),
            offset=loss.noise_offset,
            perturbation=loss.input_perturbation,
        ),
        slice=share.slice,
        slices=share.slices,
    )
    objective = Objective(
        weighting=loss.weighting,
        snr_gamma=loss.snr_gamma,
        distance=loss.distance,
        huber_c=loss.huber_c,
        huber_schedule=loss.huber_schedule,
    )
    dropout = spec.adapter.dropout > 0
    if not spec.distill.steps:
        return TrainingLoss(denoiser, plan, data, objective, dropout)
    assert attached is not None, "distillation switches the adapter off"
    consistency = Consistency(
        solver_steps=spec.distill.solver_steps,
        guidance_scale=spec.distill.guidance_scale,
        embedded=bool(getattr(denoiser.network, "config", {}).get("guidance_embeds")),
        teacher=attached.disabled,
    )
    return DistillationLoss(denoiser, plan, data, objective, dropout, consistency=consistency)
