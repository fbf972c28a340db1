"""Grades lab 5, the baseline."""

import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detour.labs.comparing import Mistake, compare, same_pictures
from detour.labs.grading import Grade, near, right, wrong
from detour.labs.wording import described

FOR_PICTURE = frozenset({"seed", "prompt", "steps", "sampler"})
FOR_BYTES = FOR_PICTURE | {"batch size", "CPU threads"}


def parameters(answer: Mapping[str, Any]) -> Grade:
    """Counts of each part against the parts themselves."""
    counted: Mapping[str, int] = answer["parameters"]
    for name, part in answer["parts"].items():
        expected = sum(p.numel() for p in part.parameters())
        found = counted.get(name)
        if found == expected:
            continue
        if found == len(list(part.parameters())):
            return wrong(
                f"{found} is how many tensors {name} has.",
                why="a tensor holds many parameters: 4 × 3 numbers are twelve.",
                hint="numel() of each, summed.",
            )
        if found == sum(p.numel() for p in part.parameters() if p.requires_grad):
            return wrong(
                f"{found} of {name} are trainable.",
                why="the base is frozen; its parameters are there all the same.",
                hint="count all, whether they require gradients or not.",
            )
        return wrong(
            f"{name} has another number of parameters than {found}.",
            why="every number that is read from the file counts.",
            hint="sum(p.numel() for p in part.parameters())",
        )
    return right()


def shapes(answer: Mapping[str, Any]) -> Grade:
    """Shape of latents and text states, and the compression."""
    base = answer["base"]
    if any(answer[name] is None for name in ("latent_shape", "text_shape", "compression")):
        return wrong(
            "a value is missing.", why="three are asked for.", hint="see the TODO in the cell above."
        )
    side = base.native_size_px // base.latent_factor
    latents, text = tuple(answer["latent_shape"]), tuple(answer["text_shape"])
    expected = (base.latent_channels, side, side)
    if latents == (side, side, base.latent_channels):
        return wrong(
            f"{latents} has the channels last.",
            why="torch's convolutions want (channels, height, width).",
            hint="the channels come first.",
        )
    if latents != expected:
        return wrong(
            f"the latents have another shape than {latents}.",
            why=f"the VAE shrinks each side by {base.latent_factor} and gives {base.latent_channels} channels.",
            hint="three numbers: base.latent_channels, and twice size_px // base.latent_factor.",
        )
    tokens = int(base.config("text_encoder")["max_position_embeddings"])
    if text != (tokens, base.cross_attention_width):
        return wrong(
            f"the text states have another shape than {text}.",
            why="a short prompt is filled up: every prompt becomes as many tokens as the encoder reads.",
            hint="(max_position_embeddings, base.cross_attention_width).",
        )
    ratio, true_ratio = float(answer["compression"]), 3 * base.native_size_px**2 / float(np.prod(expected))
    if near(ratio, true_ratio):
        return right()
    sides = {
        float(base.latent_factor): "one side is shorter by that; there are two.",
        float(
            base.latent_factor**2
        ): "that counts places; a place has 3 channels in the picture and 4 in the latents.",
    }
    return wrong(
        f"the latents are not {ratio:g} times fewer numbers.",
        why=sides.get(ratio, "count all numbers of the picture, channels too, and all of the latents."),
        hint="3 · size_px² divided by the product of latent_shape.",
    )


def start_noise(answer: Callable[..., Tensor]) -> Grade:
    """Each row a function of its own seed, normal, and the global generator untouched; in two shapes."""
    return (
        _start_noise(answer, (4, 8, 8))
        or _start_noise(answer, (3, 16, 12))
        or right("A seed means one picture now, in any batch.")
    )


def _start_noise(answer: Callable[..., Tensor], shape: tuple[int, ...]) -> Grade | None:
    before = torch.random.get_rng_state()
    try:
        torch.manual_seed(1)
        state = torch.random.get_rng_state()
        first = answer([3, 7, 3], shape)
        touched = not torch.equal(state, torch.random.get_rng_state())
        torch.manual_seed(2)
        alone, again = answer([7], shape), answer([3, 7, 3], shape)
    finally:
        torch.random.set_rng_state(before)
    if not isinstance(first, Tensor) or first.shape != (3, *shape):
        return wrong(
            f"it returns {described(first)}, not noise of shape {(3, *shape)} for three seeds.",
            why="each picture has noise of its own.",
            hint="make each one's noise for itself, then torch.stack.",
        )
    if first.dtype != torch.float32:
        return wrong(
            f"the noise is {first.dtype}.",
            why="a picture's numbers are float32 until a device asks for less; rounded noise is another picture.",
            hint="torch.randn without a dtype.",
        )
    if not torch.equal(first, again):
        return wrong(
            "the same seeds give other noise the second time.",
            why="the noise depends on what was drawn before.",
            hint="torch.Generator().manual_seed(seed) for each picture, handed to torch.randn.",
        )
    if torch.equal(first[0], first[1]):
        return wrong(
            "different seeds give the same noise.",
            why="then all pictures of a prompt are one picture.",
            hint="the seed of each picture belongs into its own generator.",
        )
    if not torch.equal(first[1], alone[0]) or not torch.equal(first[0], first[2]):
        return wrong(
            "a picture's noise depends on its place in the batch.",
            why="one generator for the whole batch runs on from picture to picture: seed 7 is another picture when "
            "it stands second.",
            hint="one generator for each picture.",
        )
    if touched:
        return wrong(
            "the noise is right, but the global generator was set on the way.",
            why="whatever draws from it next, dropout or another sampler, is changed by your picture.",
            hint="a torch.Generator of your own, in place of torch.manual_seed.",
        )
    if not 0.85 < float(first.std()) < 1.15 or abs(float(first.mean())) > 0.2 or float(first.abs().max()) < 2:
        return wrong(
            f"the noise has mean {float(first.mean()):.2f}, spread {float(first.std()):.2f} and no value beyond "
            f"{float(first.abs().max()):.1f}.",
            why="the schedule is made for standard normal noise.",
            hint="torch.randn, not torch.rand, and no factor.",
        )
    if torch.equal(first[0, 0], first[0, 1]) or torch.equal(first[0, 0, 0], first[0, 0, 1]):
        return wrong(
            "the noise repeats itself within a picture.",
            why="each of its numbers has to be drawn for itself.",
            hint="hand the whole shape to torch.randn.",
        )
    return None


class _Vae(nn.Module):
    """Decodes by repeating 8 × 8 times; its factor is not 1, so that it must be seen in the pixels."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.config = types.SimpleNamespace(
            scaling_factor=factor, shift_factor=None, block_out_channels=(1, 1, 1, 1)
        )

    def decode(self, latents: Tensor) -> Any:
        return types.SimpleNamespace(
            sample=latents[:, :3].repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
        )


def decode(answer: Callable[..., Any]) -> Grade:
    """Random latents whose pixels are known, some beyond the range, with two scaling factors."""
    generator = torch.Generator().manual_seed(5)
    cases = []
    for factor, num, side in ((0.5, 2, 2), (0.2, 1, 3)):
        latents = torch.randn(num, 4, side, side, generator=generator) * factor
        cases.append((_Vae(factor), latents))

    def as_tensor(vae: nn.Module, latents: Tensor) -> Any:
        found, (num, _, height, width) = answer(vae, latents), latents.shape
        shape = (num, 8 * height, 8 * width, 3)
        if found is None:
            return None
        if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.shape != shape:
            what = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else described(found)
            raise NotBytes(f"it returns {what}, not uint8 {shape}")
        return torch.from_numpy(found.astype(np.float32))

    def pixels(
        power: float = -1, *, rounded: bool = True, clamped: bool = True, half: bool = True
    ) -> Callable[..., Tensor]:
        def formula(vae: _Vae, latents: Tensor) -> Tensor:
            unit = vae.decode(latents * vae.config.scaling_factor**power).sample
            unit = unit / 2 + 0.5 if half else unit
            unit = (unit.clamp(0, 1) if clamped else unit) * 255
            return torch.remainder((unit.round() if rounded else unit.trunc()), 256).permute(0, 2, 3, 1)

        return formula

    try:
        for case in cases:
            as_tensor(*case)
    except NotBytes as error:
        return wrong(
            f"{error}.",
            why="pictures are bytes with the channels last.",
            hint="permute(0, 2, 3, 1), .to(torch.uint8), .cpu().numpy().",
        )
    return compare(
        as_tensor,
        pixels(),
        cases,
        [
            Mistake(
                formula=pixels(0),
                what="the latents were decoded as they are.",
                why="the UNet's latents are the VAE's times scaling_factor: the picture comes out pale.",
                hint="divide by vae.config.scaling_factor first.",
            ),
            Mistake(
                formula=pixels(1),
                what="the latents were multiplied by the scaling factor.",
                why="that is the way in, from pixels to latents.",
                hint="divide.",
            ),
            Mistake(
                formula=pixels(rounded=False),
                what="the values were cut, not rounded.",
                why="cutting makes every picture half a step darker, and other bytes than diffusers'.",
                hint=".round() before .to(torch.uint8).",
            ),
            Mistake(
                formula=pixels(clamped=False),
                what="values beyond the range were not cut off.",
                why="257 as a byte is 1: bright spots turn black.",
                hint="clamp(0, 1) before the 255.",
            ),
            Mistake(
                formula=pixels(clamped=False, rounded=False),
                what="values beyond the range were not cut off, and none was rounded.",
                why="257 as a byte is 1: bright spots turn black.",
                hint="clamp(0, 1) before the 255, and .round() behind it.",
            ),
            Mistake(
                formula=pixels(half=False),
                what="the decoder's range was taken for 0 to 1.",
                why="it is −1 to 1: everything darker than grey is lost like this.",
                hint="x / 2 + 0.5 before the clamp.",
            ),
        ],
        why="the decoder's range is [−1, 1], a byte's is 0 to 255.",
        hint="x / 2 + 0.5, clamp to [0, 1], times 255, round.",
    )


class NotBytes(Exception):
    """The learner's pictures are of another type or shape."""


def same_as_engine(answer: Mapping[str, Any]) -> Grade:
    """Two sets of pictures; one step of 255 is rounding."""
    return same_pictures(
        answer,
        "the engine's",
        praise="This is what `detour generate` draws.",
        why="same prompt, seeds, sampler and steps: more than a step of rounding is another computation.",
        hint="start_noise and decode are yours: pass both checks, then run this again.",
    )


def determinism(answer: Mapping[str, Any]) -> Grade:
    """Which conditions belong to the picture, and which to its bytes."""
    for_bytes, for_picture = answer["for_bytes"], answer["for_picture"]
    if for_bytes is None or for_picture is None:
        return wrong("a set is missing.", why="two are asked for.", hint="see the TODO in the cell above.")
    for_bytes, for_picture = set(for_bytes), set(for_picture)
    idle = sorted((for_bytes | for_picture) - FOR_BYTES)
    if idle:
        return wrong(
            f"'{idle[0]}' changes nothing.",
            why="no number of the computation depends on it.",
            hint="where would it enter: the noise, the states, a step, a sum?",
        )
    rounding = sorted(for_picture - FOR_PICTURE)
    if rounding:
        return wrong(
            f"'{rounding[0]}' changes bytes, not the picture.",
            why="it changes the order of sums: a step of rounding here and there, as the table above says.",
            hint="look at the mean differences, not at the largest.",
        )
    missing = sorted(FOR_PICTURE - for_picture)
    if missing:
        return wrong(
            f"without the same '{missing[0]}' it is another picture.",
            why="it enters the computation itself.",
            hint="change it in draw() and look.",
        )
    if for_bytes != FOR_BYTES:
        return wrong(
            f"for the same bytes '{min(FOR_BYTES - for_bytes)}' has to be the same too.",
            why="what makes another picture makes other bytes, and so does what changes the order of sums.",
            hint="everything of the picture, and what the table above shows to round otherwise.",
        )
    return right()


TASKS = {
    "parameters": parameters,
    "shapes": shapes,
    "start_noise": start_noise,
    "decode": decode,
    "same_as_engine": same_as_engine,
    "determinism": determinism,
}
