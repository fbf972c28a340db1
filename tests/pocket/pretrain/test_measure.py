"""The measuring of the base, on what is cheap to check."""

import numpy as np

from detour.pocket.pretrain.card import model_card
from detour.pocket.pretrain.measuring import sheet, true_renders
from detour.pocket.world import HELD_OUT, HOUSE, held_out_prompts

ROW = {"object": 0.99, "colour": 0.98, "place": 1.0}
FIGURES = {
    "recommended_guidance": 3.0,
    "steps": 20,
    "vae": {"mean_abs_error_255": 7.25, "psnr_db": 24.5},
    "judge_on_true_renders": {"house style": ROW, "comic": {**ROW, "object": 0.5}},
    "judge_on_generated": {"pictures": 256, "object": 0.875, "colour": 0.9, "place": 0.95},
    "guidance_trials": {"3": ROW},
    "seconds_a_picture": 1.1,
    "threads": 1,
}


def test_a_sheet_keeps_every_picture_in_reading_order() -> None:
    pictures = np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    canvas = np.asarray(sheet(pictures, columns=4))
    assert canvas.shape == (3 * 12, 4 * 12, 3)
    assert canvas[2 * 12, 12, 0] == 9
    assert canvas[2 * 12, 2 * 12, 0] == 255


def test_true_renders_show_the_prompted_scenes() -> None:
    prompts = held_out_prompts(2, seed=0)
    assert not np.array_equal(*true_renders(prompts, [HOUSE]))


def test_the_card_says_every_figure_and_what_was_held_out(tmp_path) -> None:
    card = model_card(FIGURES, base=tmp_path)
    for words in ("87.5 %", "24.5 dB", "7.25 of 255", "1.10 s", "comic | 50.0 %", *HELD_OUT.styles):
        assert words in card
