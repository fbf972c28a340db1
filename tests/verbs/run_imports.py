"""Everything that a run imports on its way, for a fork server: a kill then meets the run and not its imports."""

import torch._dynamo
import transformers.models.clip.modeling_clip
import transformers.models.clip.tokenization_clip
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

import detour.cli.results
import detour.cli.train
import detour.evaluation.plots
import detour.verbs.judge.proof_of_run
import detour.verbs.train.run

__all__ = ["AutoencoderKL", "DDIMScheduler", "UNet2DConditionModel", "detour", "torch", "transformers"]
