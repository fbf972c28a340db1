"""The world that the embedded base learns: scenes, captions and styles, drawn from signed distances."""

from detour.pocket.world.captions import caption, place_phrase, plain_prompt
from detour.pocket.world.held_out import HELD_OUT, HeldOut, StyleRegion
from detour.pocket.world.rendering import render
from detour.pocket.world.scene import Scene, Thing, compose_scene
from detour.pocket.world.stream import Example, PromptedScene, held_out_prompts, training_example
from detour.pocket.world.style import HOUSE, NAMED_STYLES, PALETTES, Style
from detour.pocket.world.style_space import random_style, style_words
from detour.pocket.world.vocabulary import VOCABULARY, Vocabulary

__all__ = [
    "HELD_OUT",
    "HOUSE",
    "NAMED_STYLES",
    "PALETTES",
    "VOCABULARY",
    "Example",
    "HeldOut",
    "PromptedScene",
    "Scene",
    "Style",
    "StyleRegion",
    "Thing",
    "Vocabulary",
    "caption",
    "compose_scene",
    "held_out_prompts",
    "place_phrase",
    "plain_prompt",
    "random_style",
    "render",
    "style_words",
    "training_example",
]
