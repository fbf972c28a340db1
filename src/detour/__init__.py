"""detour: LoRA fine-tuning of text-to-image diffusion models that proves its own claims."""

__version__ = "0.1.0"
