"""Each rule fires where it must, and stays silent beside it."""

import pytest

from detour.verbs.doctor.picture_rules import FEWEST_STEPS, Drawing, examine_drawing

POCKET = {"base": "pocket", "native_size_px": 128, "own_guidance": 2.0}
SD15 = {"base": "stable-diffusion-v1-5", "native_size_px": 512, "own_guidance": 7.5}


def rules(**values: object) -> set[str]:
    return {finding.rule for finding in examine_drawing(Drawing(where="request", **values))}


@pytest.mark.parametrize(
    ("rule", "fires", "silent"),
    [
        ("guidance-high", {**POCKET, "guidance_scale": 7.5}, {**SD15, "guidance_scale": 7.5}),
        ("guidance-high", {**SD15, "guidance_scale": 19}, {**SD15, "guidance_scale": 18.75}),
        ("guidance-high", {**POCKET, "guidance_scale": 19}, {**POCKET, "guidance_scale": 20}),
        ("guidance-broken", {**POCKET, "guidance_scale": 20}, {**POCKET, "guidance_scale": 19.9}),
        ("guidance-low", {**SD15, "guidance_scale": 1}, {**SD15, "guidance_scale": 1.5}),
        ("guidance-low", {**SD15, "guidance_scale": 0}, {**POCKET, "guidance_scale": 1}),
        ("guidance-low", {**SD15, "guidance_scale": 1}, {**SD15, "base": "sdxl-Turbo", "guidance_scale": 1}),
        (
            "negative-unread",
            {**POCKET, "guidance_scale": 1, "negative_prompt": "blurry"},
            {**POCKET, "guidance_scale": 1.1, "negative_prompt": "blurry"},
        ),
        ("negative-unread", {**POCKET, "guidance_scale": 1, "negative_prompt": "x"}, {**POCKET, "guidance_scale": 1}),
        (
            "negative-unread",  # a base that is told its guidance scale reads it with true guidance alone
            {**SD15, "guidance_scale": 3.5, "embeds_guidance": True, "negative_prompt": "x"},
            {**SD15, "guidance_scale": 3.5, "embeds_guidance": True, "true_guidance_scale": 2, "negative_prompt": "x"},
        ),
        (
            "guidance-interval-unused",
            {**POCKET, "guidance_scale": 1, "guidance_interval": (0.0, 0.5)},
            {**POCKET, "guidance_scale": 2, "guidance_interval": (0.0, 0.5)},
        ),
        (
            "guidance-interval-unused",
            {**SD15, "guidance_scale": 3.5, "embeds_guidance": True, "guidance_interval": (0.0, 0.5)},
            {**SD15, "guidance_scale": 1.0},
        ),
        (
            "deep-few-steps",
            {**SD15, "steps": 4, "deep_every": 2, "adapters": ("lcm-lora",)},
            {**SD15, "steps": 4, "deep_every": 2},
        ),
        ("deep-few-steps", {**SD15, "base": "sdxl-turbo", "deep_every": 3}, {**SD15, "base": "sdxl-turbo"}),
        ("steps-few", {**SD15, "steps": 14, "scheduler": "dpm++"}, {**SD15, "steps": 15, "scheduler": "dpm++"}),
        ("steps-few", {**SD15, "steps": 10, "scheduler": "dpm++"}, {**POCKET, "steps": 10, "scheduler": "dpm++"}),
        (
            "steps-few",
            {**SD15, "steps": 4, "scheduler": "dpm++"},
            {**SD15, "steps": 4, "scheduler": "dpm++", "adapters": ("lcm-lora",)},
        ),
        ("ddpm-serving", {**POCKET, "scheduler": "ddpm"}, {**POCKET, "scheduler": "ddim"}),
        ("size-far", {**SD15, "width_px": 1024, "height_px": 1024}, {**SD15, "width_px": 768, "height_px": 512}),
        ("size-far", {**SD15, "width_px": 256}, {**SD15, "width_px": 384}),
        ("size-far", {**SD15, "width_px": 768, "height_px": 384}, {**SD15}),
        ("fp32-on-gpu", {**SD15, "device": "cuda", "dtype": "fp32"}, {**SD15, "device": "cpu", "dtype": "fp32"}),
        ("fp32-on-gpu", {**SD15, "device": "cuda:1", "dtype": "fp32"}, {**SD15, "device": "cuda", "dtype": "bf16"}),
        ("fp16-on-cpu", {**SD15, "device": "cpu", "dtype": "fp16"}, {**SD15, "device": "cuda", "dtype": "fp16"}),
        ("no-seed", {**SD15, "wants_seed": True}, {**SD15, "wants_seed": True, "seed": 0}),
        ("no-seed", {**SD15, "wants_seed": True}, {**SD15}),
    ],
)  # fmt: skip
def test_a_rule_fires_and_is_silent(rule: str, fires: dict[str, object], silent: dict[str, object]) -> None:
    assert rule in rules(**fires)
    assert rule not in rules(**silent)


@pytest.mark.parametrize(("sampler", "least"), FEWEST_STEPS.items())
def test_too_few_steps_are_those_below_what_was_measured(sampler: str, least: int) -> None:
    assert "steps-too-few" in rules(**POCKET, steps=least - 1, scheduler=sampler)
    assert "steps-too-few" not in rules(**POCKET, steps=least, scheduler=sampler)


def test_what_is_not_known_is_not_judged() -> None:
    assert rules(**SD15) == set()
