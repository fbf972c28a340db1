"""detour: LoRA fine-tuning of text-to-image diffusion models that proves its own claims."""

__version__ = "0.1.0"

import warnings

# tqdm asks for ipywidgets when it is imported in a notebook; without them its bars are plain text, which is fine.
warnings.filterwarnings("ignore", message="IProgress not found")
