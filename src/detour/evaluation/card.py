"""Writes the model card of a run, ``README.md``."""

from collections.abc import Sequence
from pathlib import Path

from detour.adapter_methods import facts_of
from detour.bases.embedded import EMBEDDED, embedded_of_identity
from detour.bases.names import split_name
from detour.evaluation.report import RunStory
from detour.evaluation.settings import hub_id, setting_rows
from detour.evaluation.verdict import HEADLINES
from detour.files import write_text

CARD_SETTINGS = (
    "goal",
    "seed",
    "adapter.method",
    "adapter.init",
    "adapter.rank",
    "adapter.alpha",
    "adapter.targets",
    "train.steps",
    "train.batch",
    "train.grad_accum",
    "train.optim.lr",
    "train.schedule.kind",
    "data.resolution",
)
"""Settings that a reader wants to know before loading the adapter; ``resolved.toml`` has the others."""


def write_card(path: Path, story: RunStory, *, pictures: Sequence[Path]) -> None:
    """Write the model card.

    Args:
        path: ``README.md`` in the run folder.
        story: of the run.
        pictures: relative to the run folder; shown under the title.

    Raises:
        StorageError: disk full or folder not writable.
    """
    write_text(path, render_card(story, pictures=pictures))


def render_card(story: RunStory, *, pictures: Sequence[Path]) -> str:
    """The card as Markdown, without paths of the machine it was made on."""
    assert story.proof is not None, "a card tells of a proof"
    proof, file_name = story.proof, f"{story.name}.safetensors"
    trigger = ", ".join(story.spec.called_by())
    lines = [
        f"# {plain(story.name)}",
        "",
        f"{_kind(story)} for **{plain(story.base_identity)}**, made with detour.",
        "",
        *(line for path in pictures for line in (f"![{_alt(path)}]({path.as_posix()})", "")),
        f"**Verdict: `{proof.verdict}`.** {proof.headline or HEADLINES[proof.verdict]}",
        "",
        *(f"- {plain(reason)}" for reason in proof.reasons),
        "",
        *([f"Next: `{_code(proof.next_step)}`", ""] if proof.next_step else []),
        "The figures are in `proof.json`, curves and same-seed pairs in `report.html`.",
        "",
        "## How to use it",
        "",
        f"Trigger: {f'`{_code(trigger)}`, in the prompt' if trigger else 'none needed'}.",
        "",
        *_how_to_load(story, file_name),
        "## Settings",
        "",
        "| setting | value |",
        "|---|---|",
    ]
    for key, value in setting_rows(story.spec, base_identity=story.base_identity):
        if key in CARD_SETTINGS:
            lines.append(f"| {key} | {plain(value)} |")
    lines += [
        "",
        "`resolved.toml` holds every setting; `detour train --config resolved.toml` in this folder repeats the run. It",
        "finds the pictures where they were, as seen from here; name others with",
        "`detour train PICTURES --config resolved.toml`.",
        "",
    ]
    return "\n".join(lines)


def _how_to_load(story: RunStory, file_name: str) -> list[str]:
    prompt = story.held_out_pairs[0].prompt if story.held_out_pairs else _first_prompt(story)
    spoken = _code(prompt).replace('"', "'")
    method = story.spec.adapter.method
    chosen = (
        f"--base {story.name}-full"
        if method == "full"
        else f"--base {_base_argument(story)} --lora {file_name}"
    )
    lines = ["- detour:", "", "  ```", f'  detour generate "{spoken}" {chosen}', "  ```", ""]
    if method == "full":
        return [*lines, f'- diffusers: `DiffusionPipeline.from_pretrained("{story.name}-full")`.', ""]
    if embedded_of_identity(story.base_identity) is not None:
        return [
            *lines,
            "The embedded base is Stable Diffusion in miniature: other tools can read the file, but it fits",
            "this base alone.",
            "",
        ]
    return [
        *_in_interfaces(story, file_name),
        *_in_diffusers(story, file_name),
        *lines,
    ]


def _in_interfaces(story: RunStory, file_name: str) -> list[str]:
    if not facts_of(story.spec.adapter.method).in_interfaces:
        return [
            "- AUTOMATIC1111, ComfyUI, sd-scripts: not this file. They compute DoRA by other formulas and draw it",
            "  wrongly; merge it with `detour merge`, or make a LoRA of the merged base with `detour extract`.",
        ]
    interfaces = "AUTOMATIC1111, Forge" if story.family.in_a1111 else "Forge"
    return [
        f"- {interfaces}: copy `{file_name}` into `models/Lora` and write `<lora:{story.name}:1>`.",
        f"- ComfyUI: copy `{file_name}` into `models/loras` and add a *Load LoRA* node.",
    ]


def _in_diffusers(story: RunStory, file_name: str) -> list[str]:
    """Sentence on what diffusers' loader (0.42) does with each kind of file."""
    converted = f"{file_name.removesuffix('.safetensors')}-diffusers.safetensors"
    convert = f"`detour convert {file_name} {converted} --to diffusers`"
    facts, words = facts_of(story.spec.adapter.method), story.spec.adapter.tokens.words
    if words and facts.in_diffusers:
        named = ", ".join(f"`{_code(word)}`" for word in words)
        return [
            f"- diffusers refuses a file that holds words ({named}): {convert} first;",
            "  each word then comes from its `-tokens` file with `load_textual_inversion`.",
            "",
        ]
    if facts.kohya_in_diffusers == "drops magnitudes":
        return [f"- diffusers drops magnitudes in this form: {convert} first.", ""]
    if facts.kohya_in_diffusers == "refuses":
        return ["- diffusers does not read LoHa and LoKr.", ""]
    if not story.family.kohya_in_diffusers:
        return [
            f"- diffusers finds no layer of {story.family.title} in this form, and says nothing: {convert} first.",
            "",
        ]
    return [
        "- diffusers:",
        "",
        "  ```python",
        f'  pipeline.load_lora_weights(".", weight_name="{file_name}")',
        "  ```",
        "",
    ]


def _kind(story: RunStory) -> str:
    method = story.spec.adapter.method
    if method == "full":
        return "Fully fine-tuned weights, trained for comparison with adapters,"
    return f"A {facts_of(method).title} adapter"


def _base_argument(story: RunStory) -> str:
    """Value of ``--base`` for readers on other machines, without a path of this one."""
    name = story.spec.base.name
    return name if name in EMBEDDED or hub_id(name) else "YOUR-COPY-OF-THE-BASE" + split_name(name)[1]


def _first_prompt(story: RunStory) -> str:
    return (
        story.proof_pairs[0].prompt
        if story.proof_pairs
        else ", ".join(story.spec.data.triggers()) or "a picture"
    )


def plain(text: str) -> str:
    """Escape a text for Markdown and the HTML in it, and keep it on one line."""
    flat = " ".join(str(text).split())
    for sign in "\\`*_[]<>|#":
        flat = flat.replace(sign, "\\" + sign if sign != "<" else "&lt;")
    return flat


def _code(text: str) -> str:
    return " ".join(text.split()).replace("`", "'")


def _alt(path: Path) -> str:
    return plain(path.stem.replace("-", " "))
