import pytest

from detour.evaluation.causes import AdapterState, causes_of_no_effect

SOUND = {
    "learning_rate": 1e-3,
    "weight": 1.0,
    "layers": ("unet.a", "unet.b"),
    "layers_matched": 2,
    "up_is_zero": False,
    "trained_diff": 0.0,
}


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        ({"learning_rate": 0.0}, "learning rate was 0"),
        ({"layers_matched": 0}, "keys matched nothing"),
        ({"weight": 0.0}, "weight 0"),
        ({"up_is_zero": True}, "still zero"),
        ({"trained_diff": 9.0}, "lost on reload"),
        ({"best_step": 0}, "from before the first one were kept"),
        (
            {"schedule_fault": "the warm-up takes 9 steps and the run has 6"},
            "The schedule does not fit the run: the warm-up takes 9 steps and the run has 6.",
        ),
        ({}, "too small to see"),
    ],
)
def test_a_planted_cause_is_found_and_no_other(planted: dict[str, object], words: str) -> None:
    causes = causes_of_no_effect(AdapterState(**(SOUND | planted)), effect_min_diff=0.5)  # type: ignore[arg-type]
    assert len(causes) == 1
    assert words in causes[0]


def test_the_root_is_named_before_what_follows_from_it() -> None:
    state = AdapterState(**(SOUND | {"learning_rate": 0.0, "up_is_zero": True}))  # type: ignore[arg-type]
    first, second = causes_of_no_effect(state, effect_min_diff=0.5)
    assert "learning rate" in first
    assert "still zero" in second
