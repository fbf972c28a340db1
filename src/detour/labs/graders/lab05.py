"""Grades lab 5, the baseline."""

import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detour.labs.grading import Grade, right, wrong

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
    if abs(ratio - true_ratio) < 1e-6:
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
    """Each row a function of its own seed, normal, and the global generator untouched."""
    shape = (4, 8, 8)
    before = torch.random.get_rng_state()
    try:
        torch.manual_seed(1)
        first = answer([3, 7, 3], shape)
        state = torch.random.get_rng_state()
        torch.manual_seed(1)
        touched = not torch.equal(state, torch.random.get_rng_state())
        torch.manual_seed(2)
        alone, again = answer([7], shape), answer([3, 7, 3], shape)
    finally:
        torch.random.set_rng_state(before)
    if not isinstance(first, Tensor) or first.shape != (3, *shape):
        return wrong(
            f"it returns {_what(first)}, not noise of shape {(3, *shape)} for three seeds.",
            why="each picture has noise of its own.",
            hint="make each one's noise for itself, then torch.stack.",
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
    if not 0.8 < float(first.std()) < 1.2 or abs(float(first.mean())) > 0.2:
        return wrong(
            f"the noise has mean {float(first.mean()):.2f} and spread {float(first.std()):.2f}.",
            why="the schedule is made for standard normal noise.",
            hint="torch.randn, not torch.rand.",
        )
    return right("A seed means one picture now, in any batch.")


class _Vae(nn.Module):
    """Decodes by repeating 8 × 8 times; its factor is 0.5, so that it must be seen in the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.config = types.SimpleNamespace(
            scaling_factor=0.5, shift_factor=None, block_out_channels=(1, 1, 1, 1)
        )

    def decode(self, latents: Tensor) -> Any:
        return types.SimpleNamespace(
            sample=latents[:, :3].repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
        )


def decode(answer: Callable[..., Any]) -> Grade:
    """Latents whose pixels are known, some beyond the range."""
    vae = _Vae()
    latents = torch.linspace(-0.6, 0.6, 2 * 4 * 2 * 2).reshape(2, 4, 2, 2)
    found = answer(vae, latents)
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.shape != (2, 16, 16, 3):
        what = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else _what(found)
        return wrong(
            f"it returns {what}, not uint8 (2, 16, 16, 3).",
            why="pictures are bytes with the channels last.",
            hint="permute(0, 2, 3, 1), .to(torch.uint8), .cpu().numpy().",
        )

    def pixels(scale: float, *, rounded: bool = True, clamped: bool = True) -> Any:
        unit = vae.decode(latents * scale).sample / 2 + 0.5
        unit = (unit.clamp(0, 1) if clamped else unit) * 255
        return (unit.round() if rounded else unit.floor()).permute(0, 2, 3, 1).numpy()

    if np.array_equal(found, pixels(2.0)):
        return right()
    if np.array_equal(found, pixels(1.0)):
        return wrong(
            "the latents were decoded as they are.",
            why="the UNet's latents are the VAE's times scaling_factor: the picture comes out pale.",
            hint="divide by vae.config.scaling_factor first.",
        )
    if np.array_equal(found, pixels(0.5)):
        return wrong(
            "the latents were multiplied by the scaling factor.",
            why="that is the way in, from pixels to latents.",
            hint="divide.",
        )
    if np.array_equal(found, pixels(2.0, rounded=False)):
        return wrong(
            "the values were cut, not rounded.",
            why="cutting makes every picture half a step darker, and other bytes than diffusers'.",
            hint=".round() before .to(torch.uint8).",
        )
    if np.array_equal(found, (pixels(2.0, clamped=False).astype(int) % 256)):
        return wrong(
            "values beyond the range were not cut off.",
            why="257 as a byte is 1: bright spots turn black.",
            hint="clamp(0, 1) before the 255.",
        )
    return wrong(
        "the bytes are others than those of the decoded latents.",
        why="the decoder's range is [−1, 1], a byte's is 0 to 255.",
        hint="x / 2 + 0.5, clamp to [0, 1], times 255, round.",
    )


def same_as_engine(answer: Mapping[str, Any]) -> Grade:
    """Two sets of pictures; one step of 255 is rounding."""
    mine, theirs = np.asarray(answer["mine"]), np.asarray(answer["theirs"])
    if mine.shape != theirs.shape:
        return wrong(
            f"your pictures have the shape {mine.shape}, the engine's {theirs.shape}.",
            why="they cannot be compared.",
            hint="as many pictures as there are seeds, at the base's own size.",
        )
    difference = np.abs(mine.astype(int) - theirs.astype(int))
    if difference.max(initial=0) <= 1:
        return right("This is what `detour generate` draws.")
    return wrong(
        f"they differ by up to {difference.max()} of 255 ({difference.mean():.2f} on average).",
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


def _what(found: Any) -> str:
    return f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__


TASKS = {
    "parameters": parameters,
    "shapes": shapes,
    "start_noise": start_noise,
    "decode": decode,
    "same_as_engine": same_as_engine,
    "determinism": determinism,
}
