"""A CLIP of the published shape that was never trained knows nothing, and the verdict must say so."""

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from detour.evaluation.judgement import judge
from detour.evaluation.raw_material import Material, PixelFacts
from detour.evaluation.reading import unit
from detour.pocket.world import HOUSE, NAMED_STYLES, held_out_prompts, render

PROMPTS = 12


@pytest.mark.slow
def test_a_clip_of_true_shape_with_random_weights_abstains() -> None:
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig()).eval()
    asked = held_out_prompts(2 * PROMPTS, seed=1)
    style = NAMED_STYLES["stained glass"]

    def pictures(scenes: list, look: object) -> np.ndarray:
        pixels = np.stack([render(one.scene, look, size_px=224) for one in scenes])  # type: ignore[arg-type]
        with torch.inference_mode():
            values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
            pooled = model.vision_model(pixel_values=values).pooler_output
            return unit(model.visual_projection(pooled).double().numpy())

    def texts(scenes: list) -> np.ndarray:
        words = {
            word: i for i, word in enumerate(sorted({word for one in scenes for word in one.prompt.split()}))
        }
        ids = torch.full((len(scenes), 77), 49407)
        for row, one in enumerate(scenes):
            numbers = torch.tensor([49406, *(1000 + words[word] for word in one.prompt.split())])
            ids[row, : len(numbers)] = numbers
        with torch.inference_mode():
            pooled = model.text_model(input_ids=ids).pooler_output
            return unit(model.text_projection(pooled).double().numpy())

    new, own = asked[:PROMPTS], asked[PROMPTS:]
    said = texts(asked)
    found = judge(
        Material(
            scale=float(model.logit_scale.detach().exp()), prompts=said[:PROMPTS], base=pictures(new, HOUSE),
            adapter=pictures(new, style), references=pictures(own, style), captions=said[PROMPTS:],
            pixels=PixelFacts(effect=20.0),
        )
    )  # fmt: skip
    assert found.verdict == "inconclusive", found.reasons
    assert found.unknown == ("prompt",)
    assert any("name another one" in reason for reason in found.reasons)
