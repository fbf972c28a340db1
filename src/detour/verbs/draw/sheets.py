"""What sheets that compare adapters have in common."""

from detour.errors import ConfigError
from detour.specs.generation import GenerateSpec

UNREAD = (
    "lora_steps", "merge", "fast", "count", "start", "strength", "mask", "references", "reference_adapter",
    "reference_encoder", "reference_blocks", "reference_steps", "width_class", "compare", "trace", "c2pa_cert",
    "c2pa_key",
)  # fmt: skip
"""Settings of ``generate`` that a sheet does not draw with."""


def refuse_unread(spec: GenerateSpec) -> None:
    """Raise if settings were named that a sheet would leave out without a word.

    Args:
        spec: of a sheet.

    Raises:
        ConfigError: names them.
    """
    fields = type(spec).model_fields
    named = [name for name in UNREAD if getattr(spec, name) != fields[name].default]
    if named:
        raise ConfigError(
            f"{', '.join(named)}: a sheet draws each cell with adapters at strengths of its own, and reads no such "
            "setting. Leave it out, or draw with detour generate."
        )
