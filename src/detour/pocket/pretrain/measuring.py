"""Measures the embedded base: ``python -m detour.pocket.pretrain.measuring``.

Four things: how well the VAE gives back pictures it never saw, how surely the judge reads true renders
(the ceiling), what it reads in pictures generated for combinations that were never shown, and how long
a picture takes on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from detour.evaluation.judge import Judge, PromptFacts
from detour.files import write_json, write_text
from detour.pocket.pretrain.autoencoder import to_model_range
from detour.pocket.pretrain.card import model_card
from detour.pocket.world import (
    HELD_OUT,
    HOUSE,
    NAMED_STYLES,
    VOCABULARY,
    PromptedScene,
    Style,
    held_out_prompts,
    plain_prompt,
    random_style,
    render,
)

Pictures = NDArray[np.uint8]
PROMPT_SEED = 2026
STEPS = 20
SHEET_PICTURES = 48
WORDS = {"object": VOCABULARY.objects, "colour": VOCABULARY.colours, "place": VOCABULARY.places}


def phrase(facts: PromptFacts) -> str:
    """Write the canonical prompt of a scene."""
    return plain_prompt(facts.object, facts.colour, facts.place)


def facts_of(prompted: PromptedScene) -> PromptFacts:
    """Facts of a prompted scene that the judge is asked about."""
    return PromptFacts(object=prompted.object, colour=prompted.colour, place=prompted.place)


def true_renders(prompts: Sequence[PromptedScene], styles: Sequence[Style]) -> Pictures:
    """(count, 128, 128, 3): each prompt's scene, styles taken in turn."""
    return np.stack([render(p.scene, styles[i % len(styles)]) for i, p in enumerate(prompts)])


def reconstruction(vae: AutoencoderKL, pictures: Pictures) -> dict[str, float]:
    """Mean absolute error (0–255) and PSNR in decibels of the VAE's mean path, averaged over pictures."""
    made = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 16):
            batch = to_model_range(pictures[start : start + 16])
            made.append(vae.decode(vae.encode(batch).latent_dist.mean).sample)
    difference = (torch.cat(made).clamp(-1, 1) - to_model_range(pictures)) * 127.5
    squared = difference.square().mean(dim=(1, 2, 3))
    psnr = (10 * (255.0**2 / squared).log10()).mean()
    return {"mean_abs_error_255": float(difference.abs().mean()), "psnr_db": float(psnr)}


def ceilings(judge: Judge, prompts: Sequence[PromptedScene]) -> dict[str, dict[str, float]]:
    """The judge's accuracy on true renders: house style, random styles, each held-out style."""
    rng = np.random.default_rng(PROMPT_SEED)
    styles: dict[str, list[Style]] = {
        "house style": [HOUSE],
        "random styles": [random_style(rng) for _ in prompts],
        **{name: [NAMED_STYLES[name]] for name in HELD_OUT.styles},
    }
    facts = [facts_of(p) for p in prompts]
    return {
        name: judge.prompt_accuracy(true_renders(prompts, chosen), facts, WORDS, phrase)
        for name, chosen in styles.items()
    }


class Pipeline(Protocol):
    """The part of a diffusers text-to-image pipeline that is used: the call, and its VAE."""

    vae: AutoencoderKL

    def __call__(self, prompt: list[str], **settings: Any) -> Any: ...


def open_pipeline(folder: Path) -> StableDiffusionPipeline:
    """The base as diffusers loads it, in float32, without its progress bar."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: Pipeline, prompts: Sequence[str], *, guidance_scale: float, batch: int = 16
) -> Pictures:
    """(count, 128, 128, 3): one picture a prompt, picture i from seed i, ``STEPS`` steps."""
    drawn = []
    for start in range(0, len(prompts), batch):
        said = list(prompts[start : start + batch])
        generators = [torch.Generator().manual_seed(start + offset) for offset in range(len(said))]
        output = pipeline(
            said,
            num_inference_steps=STEPS,
            guidance_scale=guidance_scale,
            generator=generators,
            output_type="np",
        )
        drawn.append((output.images * 255).round().astype(np.uint8))
    return np.concatenate(drawn)


def seconds_a_picture(pipeline: Pipeline, *, guidance_scale: float) -> float:
    """Median of five pictures, one at a time, with the threads that torch has now."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        generate(pipeline, ["a red house in the desert"], guidance_scale=guidance_scale)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def sheet(pictures: Pictures, *, columns: int = 8) -> Image.Image:
    """The pictures side by side, four pixels apart, on white."""
    rows = -(-len(pictures) // columns)
    side = pictures.shape[1] + 4
    canvas = np.full((rows * side, columns * side, 3), 255, dtype=np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * side, index % columns * side
        canvas[top : top + side - 4, left : left + side - 4] = picture
    return Image.fromarray(canvas)


def measure(
    folder: Path,
    *,
    count: int,
    true_count: int,
    guidance_scales: Sequence[float],
    sheet_path: Path | None,
    pipeline: Pipeline | None = None,
) -> dict[str, Any]:
    """Measure everything that ``measured.json`` holds.

    Args:
        folder: the base; its ``judge`` is the judge.
        count: generated pictures at the best guidance; a quarter of it chooses the guidance.
        true_count: true renders for the ceilings and the VAE.
        guidance_scales: candidates; the first is taken where there is one only.
        sheet_path: where 48 generated pictures are written, or None.
        pipeline: what draws; None opens ``folder`` as pocket.
    """
    judge, pipeline = Judge.load(folder / "judge"), pipeline or open_pipeline(folder)
    shown = held_out_prompts(true_count, seed=PROMPT_SEED + 1)
    asked = held_out_prompts(count, seed=PROMPT_SEED)
    prompts, facts = [p.prompt for p in asked], [facts_of(p) for p in asked]
    few = max(1, len(asked) // 4)
    trials: dict[str, dict[str, float]] = {}
    for scale in guidance_scales if len(guidance_scales) > 1 else ():
        pictures = generate(pipeline, prompts[:few], guidance_scale=scale)
        trials[f"{scale:g}"] = judge.prompt_accuracy(pictures, facts[:few], WORDS, phrase)
    best = float(max(trials, key=lambda key: sum(trials[key].values()))) if trials else guidance_scales[0]
    pictures = generate(pipeline, prompts, guidance_scale=best)
    if sheet_path is not None:
        sheet(pictures[:SHEET_PICTURES]).save(sheet_path)
        write_text(sheet_path.with_suffix(".txt"), "\n".join(prompts[:SHEET_PICTURES]) + "\n")
    return {
        "recommended_guidance": best,
        "steps": STEPS,
        "vae": reconstruction(pipeline.vae, true_renders(shown, [HOUSE])),
        "judge_on_true_renders": ceilings(judge, shown),
        "judge_on_generated": {"pictures": count, **judge.prompt_accuracy(pictures, facts, WORDS, phrase)},
        "guidance_trials": trials,
        "seconds_a_picture": seconds_a_picture(pipeline, guidance_scale=best),
        "threads": torch.get_num_threads(),
    }


def arguments_of(*, prog: str, description: str | None, base: Path) -> argparse.Namespace:
    """Parse the command line, and set the number of threads."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--base", type=Path, default=base)
    parser.add_argument("--count", type=int, default=256, help="generated pictures")
    parser.add_argument("--true-count", type=int, default=256, help="true renders")
    parser.add_argument("--guidance", type=float, nargs="+", default=[2.0, 3.0, 4.5, 7.0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="48 generated pictures, 32 true renders, one guidance: a rough answer",
    )
    parser.add_argument("--sheet", type=Path, default=None, help="writes 48 generated pictures there")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="prints only")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.count, arguments.true_count = SHEET_PICTURES, 32
        arguments.guidance = arguments.guidance[:1]
    torch.set_num_threads(arguments.threads)
    return arguments


def main() -> None:
    """Reads the command line, measures, prints, and writes ``measured.json`` and the card."""
    arguments = arguments_of(
        prog="python -m detour.pocket.pretrain.measuring",
        description=__doc__,
        base=Path(__file__).parents[1] / "weights",
    )
    figures = measure(
        arguments.base,
        count=arguments.count,
        true_count=arguments.true_count,
        guidance_scales=arguments.guidance,
        sheet_path=arguments.sheet,
    )
    show(figures, arguments, model_card)


def show(figures: dict[str, Any], arguments: argparse.Namespace, card: Callable[..., str]) -> None:
    """Print the figures and, unless it is a dry run, write them and the card into the base's folder."""
    print(json.dumps(figures, indent=2))
    if not arguments.dry:
        write_json(arguments.base / "measured.json", figures)
        write_text(arguments.base / "README.md", card(figures, base=arguments.base))


if __name__ == "__main__":
    main()
