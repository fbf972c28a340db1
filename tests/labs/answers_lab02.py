"""Answers to lab 2; ``pocket`` draws 128 px from latents of 16 × 16 with four channels."""

from typing import Any

import torch

from tests.labs.answers import AlsoRight, Answers

SHAPES = {
    "pixels": (1, 3, 128, 128),
    "latents": (1, 4, 16, 16),
    "text": (1, 77, 160),
    "prediction": (1, 4, 16, 16),
}
NUM = 56


def shaped(**changed: Any) -> dict[str, Any]:
    return {"base": "pocket", "shapes": SHAPES | changed}


def drawn(vae: Any, pixels: Any, noise: Any) -> Any:
    one = vae.encode(pixels).latent_dist
    return one.mean + one.std * noise


def noisy_at(latents: Any, noise: Any, alpha: Any) -> Any:
    return alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise


def squared(given: Any, wanted: Any) -> Any:
    return ((given - wanted) ** 2).mean()


def counted(**counts: int) -> dict[str, Any]:
    return {"base": "pocket", "counts": counts}


ALL_SAME = {
    "form of the adapter": True,
    "frozen base": True,
    "down has no gradient at first": True,
    "loss function": False,
    "random numbers in every step": False,
}

ANSWERS: Answers = {
    "shapes": (
        shaped(),
        [
            (shaped(pixels=(1, 128, 128, 3)), "channels last"),
            (shaped(latents=(1, 3, 16, 16)), "three channels"),
            (shaped(prediction=(1, 4, 128, 128)), "side of the picture"),
            (shaped(text=(1, 160)), "every token"),
            (shaped(text=(1, 77, 768)), "is not it"),
            (shaped(text=None), "no shape yet"),
        ],
    ),
    "to_latents": (
        lambda vae, pixels, noise: drawn(vae, pixels, noise) * vae.config.scaling_factor,
        [
            (drawn, "not scaled"),
            (lambda vae, pixels, noise: drawn(vae, pixels, noise) / vae.config.scaling_factor, "divide"),
            (
                lambda vae, pixels, noise: vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor,
                "noise is not used",
            ),
            (lambda vae, pixels, noise: pixels, "those are pixels"),
            (lambda vae, pixels, noise: vae.encode(pixels).latent_dist.sample() * 0.18, ".sample()"),
            (
                lambda vae, pixels, noise: (
                    drawn(vae, pixels, noise) + drawn(vae, pixels, 0) * (vae.config.scaling_factor - 1)
                ),
                "mean alone",
            ),
        ],
    ),
    "diffusion_loss": (
        lambda ask, x, e, t, alphas: squared(ask(noisy_at(x, e, alphas[t]), t), e),
        [
            (lambda ask, x, e, t, alphas: squared(ask(x + e, t), e), "x + ε"),
            (lambda ask, x, e, t, alphas: squared(ask(x, t), e), "clean latents"),
            (lambda ask, x, e, t, alphas: squared(ask(noisy_at(x, e, alphas[t] ** 2), t), e), "roots"),
            (
                lambda ask, x, e, t, alphas: squared(ask(noisy_at(x, e, alphas[t]), t), x),
                "predicts the noise",
            ),
            (
                lambda ask, x, e, t, alphas: ((ask(noisy_at(x, e, alphas[t]), t) - e) ** 2).sum(),
                "take the mean",
            ),
            (lambda ask, x, e, t, alphas: (ask(noisy_at(x, e, alphas[t]), t) - e).abs().mean(), "absolute"),
            (lambda ask, x, e, t, alphas: (ask(noisy_at(x, e, alphas[t]), t) - e) ** 2, "one number"),
            (lambda ask, x, e, t, alphas: squared(e, x), "never asks"),
        ],
    ),
    "gradients": (
        counted(base=0, down=0, up=NUM),
        [
            (counted(base=0, down=NUM, up=NUM), "all zeros"),
            (counted(base=0, down=NUM, up=0), "wrong way round"),
            (counted(base=3, down=0, up=NUM), "frozen"),
            (counted(base=0, down=0, up=1), "each .grad"),
            (counted(base=0), "missing"),
        ],
    ),
    "hand_gradients": (
        lambda x, g, down, up, s: (s * up.T @ g.T @ x, s * g.T @ (x @ down.T)),
        [
            (lambda x, g, down, up, s: (up.T @ g.T @ x, g.T @ (x @ down.T)), "lacks the scale"),
            (lambda x, g, down, up, s: (s * g.T @ (x @ down.T), s * up.T @ g.T @ x), "wrong way round"),
            (lambda x, g, down, up, s: ((s * up.T @ g.T @ x).T, s * g.T @ (x @ down.T)), "shape"),
            (
                lambda x, g, down, up, s: (s * up.T @ g.T @ x / len(x), s * g.T @ (x @ down.T) / len(x)),
                "averaged",
            ),
            (lambda x, g, down, up, s: (s * down, s * g.T @ (x @ down.T)), "the other one in it"),
        ],
    ),
    "same": (
        ALL_SAME,
        [
            (ALL_SAME | {"loss function": True}, "cross-entropy"),
            (ALL_SAME | {"frozen base": False}, "no gradient"),
            (ALL_SAME | {"random numbers in every step": True}, "draws timestep"),
            ({}, "no answer yet"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "shapes": [shaped(pixels=[1, 3, 128, 128]), shaped(latents=torch.Size([1, 4, 16, 16]))],
    "to_latents": [
        lambda vae, pixels, noise: (
            vae.config.scaling_factor * vae.encode(pixels).latent_dist.mean
            + vae.config.scaling_factor * noise * vae.encode(pixels).latent_dist.std
        ),
        lambda vae, pixels, noise: vae.config.scaling_factor * drawn(vae, pixels, noise).double(),
    ],
    "diffusion_loss": [
        lambda ask, x, e, t, alphas: torch.nn.functional.mse_loss(ask(noisy_at(x, e, alphas[t]), t), e),
        lambda ask, x, e, t, alphas: float(
            squared(e, ask(noisy_at(x, e, float(alphas[t])), torch.tensor(t)))
        ),
    ],
    "gradients": [counted(base=0, down=False, up=NUM)],
    "hand_gradients": [
        lambda x, g, down, up, s: [s * (x.T @ g @ up).T, s * (down @ x.T @ g).T],
        lambda x, g, down, up, s: (
            s * torch.einsum("or,no,ni->ri", up, g, x),
            s * torch.einsum("no,ni,ri->or", g, x, down),
        ),
    ],
    "same": [{name: int(value) for name, value in ALL_SAME.items()}],
}
