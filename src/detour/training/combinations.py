"""Combinations of settings: those known not to work are refused with cause and fix, doubtful ones get a note."""

from typing import TYPE_CHECKING

from detour.bases.quantize import require_quantizer
from detour.errors import ConfigError
from detour.specs import LossSpec, RunSpec
from detour.training.methods import is_plain, method_name
from detour.training.optimizers import require_package

if TYPE_CHECKING:
    from detour.bases.base import Base


def refuse_objective(spec: RunSpec, base: "Base") -> None:
    """Laws, weights and additions of the loss that the base's process does not have.

    Raises:
        ConfigError: in one line.
    """
    loss, process = spec.train.loss, base.process()
    if spec.distill.steps:
        _refuse_in_distillation(spec)
    process.refuse_law(loss.timesteps)
    process.refuse_weighting(loss.weighting)
    if base.is_flow:
        _refuse_on_flow(loss, base)
    elif loss.shift not in ("auto", 1.0):
        raise ConfigError(
            f"train.loss.shift is {loss.shift:g}, but it moves the times of a rectified flow, and '{base.name}' is "
            f"{process.title}. Leave it out; train.loss.timesteps logit_normal with a logit_mean above 0 shows more "
            "noise."
        )
    predicts = str(base.scheduler_config().get("prediction_type", "epsilon"))
    if spec.train.loss.zero_terminal_snr and predicts != "v_prediction":
        raise ConfigError(
            f"train.loss.zero_terminal_snr needs a base that predicts velocity, but '{base.name}' predicts {predicts}: "
            "in pure noise the noise is the input, so that there is nothing to learn. Leave it out, or choose a "
            "v-prediction base."
        )


def _refuse_in_distillation(spec: RunSpec) -> None:
    """What has no meaning where the adapter is compared with the base and not with the pictures.

    Raises:
        ConfigError: in one line.
    """
    loss = spec.train.loss
    if spec.adapter.method in ("full", "reference"):
        raise ConfigError(
            f"adapter.method is {spec.adapter.method}, but an adapter is distilled from the base beside which it "
            "stands, by switching it off. Choose lora, dora, loha or lokr."
        )
    lacking = {
        "train.loss.weighting": loss.weighting != "uniform",
        "train.loss.zero_terminal_snr": loss.zero_terminal_snr,
        "train.loss.noise_offset": loss.noise_offset,
        "train.loss.input_perturbation": loss.input_perturbation,
        "prior.use": spec.prior.use is True,
        "adapter.text_encoder.rank": spec.adapter.text_encoder.rank,
        "adapter.tokens.words": spec.adapter.tokens.words,
        "validate.patience": spec.validate_.patience,
    }
    if found := next((key for key, is_set in lacking.items() if is_set), None):
        raise ConfigError(
            f"{found} is set, but distill.steps is {spec.distill.steps}: a distilled adapter learns the base's own "
            "pictures in fewer steps. Leave it out."
        )


def _refuse_on_flow(loss: LossSpec, base: "Base") -> None:
    """What makes up for a process that never reaches pure noise, on one that does.

    Raises:
        ConfigError: in one line.
    """
    if loss.zero_terminal_snr:
        raise ConfigError(
            f"train.loss.zero_terminal_snr is for processes that end short of pure noise, and '{base.name}' is a "
            "rectified flow, which ends in pure noise already. Leave it out."
        )
    if loss.noise_offset:
        raise ConfigError(
            f"train.loss.noise_offset is {loss.noise_offset:g}, which makes up for processes that end short of pure "
            f"noise; '{base.name}' is a rectified flow, which ends in it, and pictures start from noise without an "
            "offset. Set it to 0."
        )


def refuse_optimizer(spec: RunSpec) -> None:
    """Settings that an optimizer has no use for, and averages of averages.

    Raises:
        ConfigError: in one line.
    """
    name, train = spec.train.optim.name, spec.train
    if name != "prodigy" and (train.optim.d0 is not None or train.optim.d_coef != 1):
        key = "d_coef" if train.optim.d0 is None else "d0"
        raise ConfigError(
            f"train.optim.{key} is Prodigy's, and train.optim.name is '{name}'. Leave it out, or set "
            "train.optim.name to prodigy."
        )
    if name == "prodigy" and train.optim.up_rate != 1:
        raise ConfigError(
            f"train.optim.up_rate is {train.optim.up_rate:g} with optimizer 'prodigy', which finds one rate for "
            "everything. Set it to 1, or choose adamw."
        )
    text = spec.adapter.text_encoder
    if name == "prodigy" and text.rank and text.rate != 1:
        raise ConfigError(
            f"adapter.text_encoder.rate is {text.rate:g} with optimizer 'prodigy', which finds one rate for "
            "everything. Set it to 1, or choose adamw."
        )
    tokens = spec.adapter.tokens
    if name == "prodigy" and tokens.words and tokens.rate != 1:
        raise ConfigError(
            f"adapter.tokens.rate is {tokens.rate:g} with optimizer 'prodigy', which finds one rate for everything. "
            "Set it to 1, or choose adamw."
        )
    if name != "schedule_free":
        return
    if train.schedule.kind != "constant":
        raise ConfigError(
            f"train.schedule.kind '{train.schedule.kind}' with optimizer 'schedule_free', which averages weights "
            "instead of lowering the rate. Set train.schedule.kind to constant, or choose adamw."
        )
    if train.optim.beta1 == 0:
        raise ConfigError(
            "train.optim.beta1 is 0 with optimizer 'schedule_free', which divides by it. Set it to 0.9, the default."
        )
    if train.ema:
        raise ConfigError(
            f"train.ema is {train.ema:g} with optimizer 'schedule_free', whose weights are an average already. "
            "Set train.ema to 0, or choose adamw."
        )


def refuse_quantized(spec: RunSpec) -> None:
    """A quantised base under a method that reads or rewrites the frozen weights.

    Raises:
        ConfigError: in one line.
    """
    if spec.base.quantize == "none":
        return
    if not is_plain(spec.adapter):
        raise ConfigError(
            f"base.quantize '{spec.base.quantize}' with method {method_name(spec.adapter)}, which needs the frozen "
            "weights as they are. Leave one of them out; plain LoRA trains beside a quantised base."
        )


def require_packages(spec: RunSpec) -> None:
    """Raise now if a library that training needs is not installed; a prediction of its memory needs none.

    Raises:
        ConfigError: names the pip command.
    """
    require_package(spec.train.optim.name)
    if spec.base.quantize != "none":
        require_quantizer(spec.base.quantize)


def notes_on_compiling(spec: RunSpec) -> list[str]:
    """Say that compiling is left out where it gains nothing: a CPU compiles for minutes and is no faster."""
    if not spec.train.compile or str(spec.base.device).startswith("cuda"):
        return []
    return [f"train.compile is for CUDA GPUs; on this {spec.base.device} nothing is compiled."]


def notes_on_objective(spec: RunSpec, base: "Base") -> list[str]:
    """What the user should know about the loss that was chosen."""
    loss = spec.train.loss
    if base.is_flow:
        return [
            f"Rectified flow: the network learns the velocity ε − x₀; times by the {loss.timesteps} law, shift "
            f"{float(loss.shift):.3g} (above 1: more noise)."
        ]
    if loss.zero_terminal_snr and loss.weighting != "uniform":
        return [
            f"train.loss.weighting '{loss.weighting}' counts the last timestep, which is pure noise, as nothing."
        ]
    return []
