"""Answers to lab 9; the figures of its pixel were worked by hand."""

import torch

from tests.labs.answers import AlsoRight, Answers

PIXEL = {"x1": 0.9170603, "x2": 0.3730300, "alpha_bar": 0.72, "noise": -0.5778413}

ANSWERS: Answers = {
    "one_pixel": (
        PIXEL,
        [
            (PIXEL | {"x1": 1.3}, "plain adding"),
            (PIXEL | {"x1": 0.77}, "without their roots"),
            (PIXEL | {"x2": 1.267}, "mind the sign"),
            (PIXEL | {"alpha_bar": 0.7}, "product"),
            (PIXEL | {"noise": -0.25}, "solve x₂"),
            (PIXEL | {"noise": None}, "no value yet: noise"),
        ],
    ),
    "jump": (
        lambda clean, noise, alpha: alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise,
        [
            (lambda clean, noise, alpha: clean + noise, "x + ε"),
            (lambda clean, noise, alpha: alpha * clean + (1 - alpha) * noise, "root"),
            (lambda clean, noise, alpha: (1 - alpha) ** 0.5 * clean + alpha**0.5 * noise, "swap"),
            (lambda clean, noise, alpha: clean, "off by up to"),
        ],
    ),
    "variance": (
        lambda alpha, clean: alpha * clean + 1 - alpha,
        [
            (lambda alpha, clean: 1.0, "whatever the picture"),
            (lambda alpha, clean: alpha + (1 - alpha) * clean, "swap"),
            (lambda alpha, clean: alpha**0.5 * clean + (1 - alpha) ** 0.5, "roots"),
            (lambda alpha, clean: clean, "add up"),
        ],
    ),
    "clean_guess": (
        lambda noisy, noise, alpha: (noisy - (1 - alpha) ** 0.5 * noise) / alpha**0.5,
        [
            (lambda noisy, noise, alpha: noisy - noise, "weigh the noise"),
            (lambda noisy, noise, alpha: noisy - (1 - alpha) ** 0.5 * noise, "too small"),
            (lambda noisy, noise, alpha: (noisy - (1 - alpha) * noise) / alpha, "without their roots"),
            (lambda noisy, noise, alpha: noisy, "divide by √ᾱ"),
        ],
    ),
    "first_below": (
        {"scaled_linear": 354, "linear": 259},
        [
            ({"scaled_linear": 353, "linear": 259}, "one further"),
            ({"scaled_linear": 354}, "'linear' has no value"),
            ({"scaled_linear": 521, "linear": 368}, "one half"),
            ({"scaled_linear": 100, "linear": 259}, "not the first"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "one_pixel": [{name: round(value, 4) for name, value in PIXEL.items()}],
    "jump": [
        lambda clean, noise, alpha: torch.sqrt(alpha) * clean + torch.sqrt(1 - alpha) * noise,
        lambda clean, noise, alpha: (1 - alpha).sqrt().double() * noise + clean * float(alpha) ** 0.5,
    ],
    "variance": [
        lambda alpha, clean: 1 - alpha * (1 - clean),
        lambda alpha, clean: 1 + alpha * clean - alpha,
    ],
    "clean_guess": [
        lambda noisy, noise, alpha: noisy / alpha.sqrt() - ((1 - alpha) / alpha).sqrt() * noise,
        lambda noisy, noise, alpha: alpha**-0.5 * (noisy - (1 - alpha) ** 0.5 * noise),
    ],
    "first_below": [{"scaled_linear": 354.0, "linear": torch.tensor(259)}],
}
