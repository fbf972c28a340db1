"""What the renderer owes: same bytes, clean edges, true colours, styles that show."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from detour.pocket.world import (
    HOUSE,
    NAMED_STYLES,
    VOCABULARY,
    Scene,
    Style,
    compose_scene,
    render,
    training_example,
)
from detour.pocket.world.silhouettes import SILHOUETTES
from detour.pocket.world.vocabulary import COLOUR_VALUES

SCENE = compose_scene(seed=4, things=[("star", "red")], place="meadow")


def _difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    return float(np.abs(first.astype(np.float32) - second.astype(np.float32)).mean())


def test_same_scene_and_style_give_the_same_bytes() -> None:
    for name in ("watercolour", "crayon", "stained glass"):
        first, second = (render(SCENE, NAMED_STYLES[name]) for _ in range(2))
        assert first.tobytes() == second.tobytes()


def test_pictures_are_rgb_bytes_of_the_size_asked_for() -> None:
    for size_px in (64, 96, 128):
        picture = render(SCENE, NAMED_STYLES["pixel art"], size_px=size_px)
        assert picture.shape == (size_px, size_px, 3)
        assert picture.dtype == np.uint8


def test_edges_are_blended_over_about_a_pixel() -> None:
    """How much of each pixel the star covers, from two pictures that differ in the star's colour alone."""
    bare = Style(outline_px=0.0, shading=0.0)
    red, blue = (
        render(replace(SCENE, things=(replace(SCENE.things[0], colour=colour),)), bare).astype(np.float32)
        for colour in ("red", "blue")
    )
    covered = (red - blue)[:, :, 0] / (255 * (COLOUR_VALUES["red"][0] - COLOUR_VALUES["blue"][0]))
    partly = (covered > 0.1) & (covered < 0.9)
    edge = (_body(SCENE, 0)[:, 1:] != _body(SCENE, 0)[:, :-1]).sum()
    edge += (_body(SCENE, 0)[1:, :] != _body(SCENE, 0)[:-1, :]).sum()
    assert 0.4 * edge < partly.sum() < 1.2 * edge
    assert covered.sum() == pytest.approx(_body(SCENE, 0).sum(), rel=0.02)


def test_halving_the_size_shows_the_same_picture() -> None:
    full = render(SCENE, HOUSE).astype(np.float32)
    pooled = full.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(pooled - render(SCENE, HOUSE, size_px=64)).mean() < 6


@pytest.mark.parametrize("name", NAMED_STYLES)
def test_every_named_style_changes_the_picture(name: str) -> None:
    assert _difference(render(SCENE, NAMED_STYLES[name]), render(SCENE, HOUSE)) > 8


def test_named_styles_differ_from_one_another() -> None:
    pictures = {name: render(SCENE, style) for name, style in NAMED_STYLES.items()}
    for first, second in combinations(pictures, 2):
        assert _difference(pictures[first], pictures[second]) > 8, (first, second)


def test_every_parameter_of_a_style_changes_pixels() -> None:
    ground = Style(texture="dots", texture_amount=0.5, fill=0.8, outline_px=2.0)
    changes: dict[str, object] = {
        "outline_px": 4.0,
        "ink": "white",
        "wobble_px": 2.0,
        "texture": "grain",
        "texture_amount": 1.0,
        "texture_px": 8.0,
        "softness_px": 4.0,
        "saturation": 0.5,
        "lightness": 0.2,
        "warmth": 0.8,
        "shading": 1.0,
        "paper": 0.8,
        "ground": (0.1, 0.1, 0.4),
        "fill": 0.3,
        "bleed": 0.8,
        "glow_px": 5.0,
        "facet_px": 25.0,
        "cell_px": 4.0,
        "grid_px": 8.0,
    }
    assert set(changes) == {field.name for field in fields(Style)}
    before = render(SCENE, ground)
    for name, value in changes.items():
        after = render(SCENE, replace(ground, **{name: value}))  # type: ignore[arg-type]
        assert _difference(before, after) > 0.3, name


def test_places_and_skies_change_the_picture() -> None:
    def drawn(place: str, sky: str) -> NDArray[np.uint8]:
        return render(compose_scene(seed=1, things=[("heart", "red")], place=place, sky=sky), HOUSE)

    for first, second in combinations(VOCABULARY.places, 2):
        assert _difference(drawn(first, "by day"), drawn(second, "by day")) > 10, (first, second)
    for first, second in combinations(VOCABULARY.skies, 2):
        assert _difference(drawn("city", first), drawn("city", second)) > 5, (first, second)


def _body(scene: Scene, index: int) -> NDArray[np.bool_]:
    """(128, 128) where a thing is, from its silhouette alone."""
    thing = scene.things[index]
    centres = (np.arange(128, dtype=np.float32) + np.float32(0.5)) / np.float32(128)
    x, y = np.meshgrid(centres, centres)
    dx, dy = (x - thing.x) / (thing.size / 2), (thing.y - y) / (thing.size / 2)
    cos, sin = np.cos(thing.tilt), np.sin(thing.tilt)
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    u = -u if thing.mirrored else u
    return np.asarray(SILHOUETTES[thing.kind](u.astype(np.float32), v.astype(np.float32)).body < 0)


def test_things_wear_the_colour_that_the_caption_gives_them_in_every_random_style() -> None:
    """The median colour of a body is nearer to its own word's than to seven others, nearly always."""
    hits = []
    for index in range(250):
        example = training_example(8, index)
        picture = render(example.scene, example.style).astype(np.float32) / 255
        for i, thing in enumerate(example.scene.things):
            seen = np.median(picture[_body(example.scene, i)], axis=0)
            distance = {
                word: np.abs(_hue(seen) - _hue(np.array(c))).sum() for word, c in COLOUR_VALUES.items()
            }
            hits.append(min(distance, key=lambda word: float(distance[word])) == thing.colour)
    assert np.mean(hits) > 0.95


@pytest.mark.parametrize(
    "change", [{"saturation": 0.0}, {"lightness": -1.0}, {"lightness": 1.0}, {"warmth": -1.0}]
)
def test_no_palette_takes_a_thing_s_colour_word_away(change: dict[str, float]) -> None:
    picture = render(SCENE, Style(**change)).astype(np.float32) / 255  # type: ignore[arg-type]
    red, green, blue = np.median(picture[_body(SCENE, 0)], axis=0)
    assert red > 0.6
    assert max(green, blue) < 0.5 * red


def _hue(colour: NDArray[np.floating]) -> NDArray[np.float64]:
    """Red-green, blue-yellow and grey, the first two of unit length where there is any colour."""
    r, g, b = (float(c) for c in colour)
    chroma = max(r, g, b) - min(r, g, b)
    strength = min(1.0, chroma / 0.25)
    axis = np.array([r - (g + b) / 2, (g - b) * 0.866])
    axis = axis / max(1e-6, float(np.linalg.norm(axis))) * strength
    return np.array([*axis, 0.8 * chroma])


def test_two_things_stay_inside_the_picture_and_out_of_each_other() -> None:
    for seed in range(12):
        for relation in VOCABULARY.relations:
            things = [("umbrella", "red"), ("house", "blue")]
            scene = compose_scene(seed=seed, things=things, place="city", relation=relation)
            first, second = _body(scene, 0), _body(scene, 1)
            assert (first & second).sum() < 0.05 * min(first.sum(), second.sum())
            for body in (first, second):
                assert body[[0, -1], :].sum() + body[:, [0, -1]].sum() == 0
            upper, lower = np.flatnonzero(first.any(axis=1)), np.flatnonzero(second.any(axis=1))
            gap_px = int(lower[0] - upper[-1])
            assert {"beside": gap_px < 0, "above": gap_px >= 6, "on": -8 <= gap_px <= 4}[relation]


def test_bodies_are_big_and_mostly_of_their_colour() -> None:
    grid = np.linspace(-1.1, 1.1, 90, dtype=np.float32)
    x, y = np.meshgrid(grid, grid)
    for kind, draw in SILHOUETTES.items():
        shape = draw(x, y)
        body = shape.body < 0
        assert body.mean() * 2.2**2 / 4 > 0.2, kind
        foreign = np.zeros(body.shape, bool)
        for distance, tone in shape.details:
            covered = (distance < 0) & body
            foreign = np.where(covered, tone in ("white", "black"), foreign)
        assert foreign.sum() < 0.41 * body.sum(), kind
        # A caption cannot tell two things apart that look alike in outline.
        assert not any(
            np.array_equal(body, SILHOUETTES[other](x, y).body < 0) for other in SILHOUETTES if other != kind
        )
