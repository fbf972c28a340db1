"""Settings of a training run, section by section as they stand in ``run.toml``."""

from typing import Annotated, Literal

from pydantic import Field

from detour.adapter_methods import Method, Start
from detour.specs.data import DataSpec
from detour.specs.strict import Auto, Count, NonNegative, Positive, PositiveInt, Share, Spec

Dtype = Literal["fp32", "bf16", "fp16"]
Device = Literal["cuda", "mps", "cpu"]


class BaseSpec(Spec):
    """The frozen model beside which the adapter is trained."""

    name: str = "pocket"
    """``pocket``, ``pocket-flow``, a hub id, a diffusers folder or a single ``.safetensors`` checkpoint; ``:no-t5``
    behind it leaves the T5 of SD 3 out."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    device: Device | Auto = "auto"
    """Where the work runs; ``auto`` takes cuda, then mps, then cpu."""
    dtype: Dtype | Auto = "auto"
    """Precision of the frozen weights and of the forward pass; adapter weights are fp32 always."""
    quantize: Literal["none", "nf4", "int8"] = "none"
    """Keep the frozen linear layers in 4 or 8 bits while training (QLoRA, arXiv:2305.14314); plain LoRA only."""


class PriorSpec(Spec):
    """Prior preservation: pictures of the class, drawn by the base beforehand and trained beside the subject's.

    Without them everything that shares the subject's class word turns into the subject (arXiv:2208.12242, section 3.2).
    """

    use: bool | Auto = "auto"
    """``auto``: when there are class prompts."""
    class_prompts: tuple[str, ...] = ()
    """What the class is called without the subject's rare word: ``("a robot",)``; several take turns."""
    pictures: PositiveInt = 100
    """Class pictures in all; kept for later runs."""
    weight: NonNegative = 1.0
    """Loss weight of a class picture; a picture of the subject has 1."""
    steps: PositiveInt = 25
    """Denoising steps of a class picture."""
    guidance_scale: NonNegative | Auto = "auto"
    """Classifier-free guidance of a class picture; ``auto`` is the base's recommended value."""
    folder: str = ""
    """Where drawn class pictures are kept; empty: ``detour/class-pictures`` in the user's cache folder."""


class TextEncoderSpec(Spec):
    """Adapters beside the text encoders' layers; the encoders then stay in memory and are run in every step."""

    rank: Count = 0
    """Rank of the adapters beside the text encoders; 0 leaves the text encoders as they are."""
    alpha: Positive | Auto = "auto"
    """Scale numerator; ``auto`` equals the rank."""
    targets: str = "attn"
    """``attn`` (q, k, v, out), ``kohya`` (and the feed-forward), ``linear``, a list of names, or ``re:`` and a regular
    expression."""
    rate: Positive = 0.5
    """Learning rate as a multiple of the run's: text encoders forget faster than UNets."""


class TokensSpec(Spec):
    """New words with vectors of their own, trained beside the adapter (textual inversion, arXiv:2208.01618)."""

    words: tuple[str, ...] = ()
    """Words that the captions have and the base's vocabulary has not, e.g. ``<bob>``."""
    init: tuple[str, ...] = ()
    """Known word for each new word, whose vectors the new word's start from."""
    vectors: PositiveInt = 1
    """Vectors of each word; it takes as many of the 75 places of a prompt."""
    rate: Positive = 5.0
    """Learning rate as a multiple of the run's."""
    weight_decay: NonNegative = 0.0
    """Weight decay of the new vectors alone, which have no reason to be small."""


class AdapterSpec(Spec):
    """The adapter itself: ``h = W x + (alpha / rank) · up(down(x))``."""

    method: Method = "lora"
    """What stands beside each layer; ``full`` trains the base's own weights, for comparison, and ``reference`` an
    IP-Adapter, which shows the base reference pictures. See docs/training.md."""
    image_encoder: str = ""
    """Folder of the image encoder that an IP-Adapter reads; empty: the base's own, where it has one."""
    rank: PositiveInt | Auto = "auto"
    """Rank of the change of weight."""
    alpha: Positive | Auto = "auto"
    """Scale numerator; ``auto`` equals the rank (scale 1)."""
    targets: str | Auto = "auto"
    """A preset (``cross-attn``, ``self-attn``, ``attn``, ``attn-proj``, ``kohya``, ``linear``, ``conv``, ``all``),
    a comma-separated list of module names, or ``re:`` and a regular expression."""
    rslora: bool = False
    """Scale by alpha / √rank instead of alpha / rank (arXiv:2312.03732); folded into the file's alpha."""
    dropout: Share = 0.0
    """Share of the adapter's inputs that are zeroed during training; plain LoRA only."""
    init: Start = "kaiming"
    """How ``down`` starts while ``up`` starts at zero; ``pissa`` and ``olora``: both from the base's own weights."""
    from_file: str = ""
    """Adapter file whose weights the run starts at, of the same method, layers and rank; empty: no change at all."""
    from_sha256: str = ""
    """What that file held when the run began; filled in by the run, which refuses another content."""
    lokr_factor: Count = 0
    """Wanted size of LoKr's first matrix; 0 takes the divisors nearest to a square."""
    formats: tuple[Literal["diffusers", "peft"], ...] = ()
    """Written beside the kohya file when the run is done: the folders ``NAME-diffusers`` and ``NAME-peft``."""
    text_encoder: TextEncoderSpec = TextEncoderSpec()
    tokens: TokensSpec = TokensSpec()


class OptimSpec(Spec):
    """What turns gradients into updates."""

    name: Literal["adamw", "adamw8bit", "adafactor", "prodigy", "lion", "schedule_free"] = "adamw"
    """AdamW runs fused over one flat buffer; see docs/training.md for the others and what they need."""
    lr: NonNegative | Auto = "auto"
    """Peak learning rate; ``auto`` suits the goal and the optimizer."""
    up_rate: Positive = 1.0
    """Rate of ``up`` as a multiple of that of ``down``; LoRA+ (arXiv:2402.12354) proposes 16."""
    beta1: Share = 0.9
    """Decay of the first moment."""
    beta2: Share | Auto = "auto"
    """Decay of the second moment; ``auto``: 0.99 for Lion, 0.999 for the others."""
    eps: Positive = 1e-8
    """Added to the denominator; Lion and Adafactor have none."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay."""
    d0: Positive | None = None
    """First estimate of the rate, Prodigy only; unset: a third of the rate that AdamW takes for the goal."""
    d_coef: Positive = 1.0
    """Factor on what Prodigy's estimate of the rate grows to; ``d0`` itself is not multiplied."""


class ScheduleSpec(Spec):
    """Learning rate over the run."""

    kind: Literal["constant", "cosine", "linear", "cosine_restarts"] | Auto = "auto"
    """Shape after the warm-up; all but constant end at zero; ``auto``: constant for schedule_free, else cosine."""
    cycles: PositiveInt = 3
    """How often ``cosine_restarts`` falls."""
    warmup: Count | Auto = "auto"
    """Steps of linear warm-up; ``auto`` is 5 % of the run."""


class LossSpec(Spec):
    """What the denoising loss compares, at which timesteps and with which weights."""

    timesteps: Literal["uniform", "logit_normal", "mode"] | Auto = "auto"
    """Which timesteps are shown: all alike, or more of those around the middle (``mode`` on a rectified flow alone;
    arXiv:2403.03206); ``auto``: uniform, and logit_normal on a rectified flow."""
    logit_mean: Annotated[float, Field(ge=-10, le=10)] = 0.0
    """Middle of the logit-normal law; above 0 shows noisier pictures more often."""
    logit_std: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Width of the logit-normal law."""
    mode_scale: Annotated[float, Field(ge=-1, le=1.75)] = 1.29
    """Scale of the mode law: above 0 prefers the middle, below 0 the two ends."""
    shift: Positive | Auto = "auto"
    """Moves the times of a rectified flow: above 1 shows more noise; ``auto``: the base's own, at the run's resolution
    where the base's moves with it (Flux-dev)."""
    weighting: Literal["uniform", "min_snr", "debiased", "sigma_sqrt", "cosmap"] = "uniform"
    """Weight of each timestep (min-SNR: arXiv:2303.09556, debiased: arXiv:2310.08442; on a rectified flow sigma_sqrt
    and cosmap: arXiv:2403.03206)."""
    snr_gamma: Positive = 5.0
    """Clamp of min-SNR."""
    distance: Literal["mse", "huber"] = "mse"
    """Squared error, or pseudo-Huber, which a few odd pictures move less (arXiv:2403.16728)."""
    huber_c: Positive = 0.1
    """Error at which pseudo-Huber turns from quadratic to linear; smaller values make more of it linear."""
    huber_schedule: Literal["constant", "snr"] = "snr"
    """Whether that place moves with the timestep: ``snr`` is 1 at the clean end and ``huber_c`` in pure noise."""
    noise_offset: NonNegative = 0.0
    """Size of a constant added to each channel of the noise, for very dark or bright pictures; 0.05 is usual."""
    input_perturbation: NonNegative = 0.0
    """Size of further noise in the input that the target does not contain (arXiv:2301.11706 takes 0.1)."""
    zero_terminal_snr: bool = False
    """Train to pure noise at the last timestep (arXiv:2305.08891); v-prediction bases only."""
    caption_dropout: Share | Auto = "auto"
    """Share of the samples trained with the family's unconditional text; ``auto``: 0.1 for a style, 0 for a subject."""


class TrainSpec(Spec):
    """Length and step of the run."""

    steps: PositiveInt | Auto = "auto"
    """Number of optimizer steps."""
    batch: PositiveInt | Auto = "auto"
    """Samples in one forward pass."""
    grad_accum: PositiveInt = 1
    """Forward passes in one step."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this norm."""
    ema: Share = 0.0
    """Decay of a running average of the adapter, which is validated, drawn with and shipped; 0: none, 0.99 is usual."""
    gradient_checkpointing: bool = False
    """Keep only each block's input and compute the block again for its gradients: less memory, more time."""
    compile: bool = False
    """Compile the transformer blocks (``torch.compile``); on GPUs only."""
    threads: PositiveInt | Auto = "auto"
    """CPU threads; recorded, because a resumed run is the same run only at the same count."""
    optim: OptimSpec = OptimSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    loss: LossSpec = LossSpec()


class DistillSpec(Spec):
    """Latent consistency distillation: the adapter learns to draw what the guided base draws, in few steps."""

    steps: Annotated[int, Field(ge=0, le=16)] = 0
    """Steps of a picture that is drawn with the adapter; 0: no distillation, the pictures themselves are learned."""
    solver_steps: Annotated[int, Field(ge=2, le=1000)] = 50
    """Steps of the base's solver over the whole schedule (DDIM, and Euler on a rectified flow); the adapter learns to
    give one answer at both ends of each (arXiv:2310.04378)."""
    guidance_scale: NonNegative | Auto = "auto"
    """Guidance of the base that the adapter takes over, so that its pictures need none; ``auto`` is the base's
    recommended value."""


class SampleSpec(Spec):
    """Pictures drawn during training with fixed seeds."""

    every: Count | Auto = "auto"
    """Steps between sheets; 0 draws none; ``auto`` makes four in a run."""
    prompts: tuple[str, ...] = ()
    """What is drawn; empty takes captions of the data."""
    count: PositiveInt = 4
    """Prompts taken from the captions when none are given."""
    steps: PositiveInt = 20
    """Denoising steps of a sample."""
    guidance_scale: NonNegative | Auto = "auto"
    """Classifier-free guidance; ``auto`` is the base's recommended value."""
    policy: str | None = None
    """File of a safety policy that sample prompts and sample pictures have to pass; pictures of the proof do not."""


class ValidateSpec(Spec):
    """Loss on pictures kept out, at fixed timesteps with fixed noise."""

    every: Count | Auto = "auto"
    """Steps between validations; 0 never; ``auto`` makes ten in a run."""
    num_timesteps: PositiveInt = 8
    """Fixed timesteps a picture, evenly spread."""
    ship: Literal["last", "lowest_loss", "best_proof"] | Auto = "auto"
    """Weights that become the adapter: the last step's, those of the lowest validation loss, or those of the
    checkpoint that new prompts speak for; ``auto``: the lowest loss with ``patience``, else the last."""
    patience: Count = 0
    """End the run after so many validations without a new lowest loss; 0 never."""


class CheckpointSpec(Spec):
    """Resumable state, kept apart from what is shipped."""

    every: Count | Auto = "auto"
    """Steps between checkpoints; 0 only at the end and on Ctrl-C; ``auto`` makes four in a run."""
    keep: PositiveInt = 2
    """Newest checkpoints that stay on disk, and where the lowest loss is shipped that one too; the adapter file of
    every one stays."""


class EvaluateSpec(Spec):
    """Proof and held-out evaluation at the end of the run."""

    prompts: tuple[str, ...] = ()
    """Held-out prompts; empty lets the base's own world write them where it can."""
    num_prompts: Count = 16
    """How many held-out prompts are drawn when none are given; 0 leaves the evaluation out."""
    proof_pictures: PositiveInt = 4
    """Prompt and seed pairs of the picture proof."""
    steps: PositiveInt = 20
    """Denoising steps of every proof picture."""
    dtype: Dtype | Auto = "auto"
    """Precision of every proof picture; ``auto`` is fp32, and that of training on a GPU whose memory is too small."""


class RunSpec(Spec):
    """Everything that a training run needs. ``detour train --config`` reads it, ``resolved.toml`` repeats it."""

    name: str | Auto = "auto"
    """Folder under ``runs/`` and name of the adapter file; ``auto`` is the data folder's name."""
    goal: Literal["style", "subject"] = "style"
    """What the adapter should learn; it sets the defaults of rank, rate and steps, see docs/training.md."""
    seed: Count = 0
    """Noise, timesteps, order and dropout are functions of (seed, step, sample)."""
    track: Literal["none", "tensorboard", "wandb"] = "none"
    """Where curves and sample pictures go besides the run folder (``pip install detour-lora[track]``)."""
    base: BaseSpec = BaseSpec()
    data: DataSpec = DataSpec()
    prior: PriorSpec = PriorSpec()
    adapter: AdapterSpec = AdapterSpec()
    train: TrainSpec = TrainSpec()
    distill: DistillSpec = DistillSpec()
    sample: SampleSpec = SampleSpec()
    validate_: ValidateSpec = Field(default=ValidateSpec(), alias="validate")
    checkpoint: CheckpointSpec = CheckpointSpec()
    evaluate: EvaluateSpec = EvaluateSpec()

    def called_by(self) -> tuple[str, ...]:
        """What a prompt must say to call on what was learned: the triggers, and the new words that are not in them."""
        triggers = self.data.triggers()
        said = " ".join(triggers).lower()
        return (*triggers, *(word for word in self.adapter.tokens.words if word.lower() not in said))
