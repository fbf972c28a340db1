"""How exact an answer to each task has to be: the line that stands above its check in the notebook."""

from collections.abc import Mapping

from detour.errors import ConfigError
from detour.labs.comparing import ABSOLUTE, RELATIVE, TENSOR_ABSOLUTE, TENSOR_RELATIVE

EXACT = "none, the answer has to be exact"
NUMBERS = f"numbers may be off by {RELATIVE:g} of the right one, or by {ABSOLUTE:.5f} where that is more"
TENSORS = (
    f"tensors may be off by {TENSOR_RELATIVE:g} of each right number, plus {TENSOR_ABSOLUTE:.5f}; half precision is "
    "too coarse"
)
PICTURES = "pictures may differ by 1 of 255 in any value"
WORDS = "four words or more each; what they say is not graded"
BYTES = "none, no value may differ by a step of 255"

TOLERANCES: Mapping[int, Mapping[str, str]] = {
    1: {
        "cross_attention": EXACT,
        "lora_parameters": NUMBERS,
        "adapter_parameters": EXACT,
        "bare_suffix": EXACT,
        "copied_figure": "the count is exact; the percentage may be off by 0.00002",
        "file_bytes": EXACT,
    },
    2: {
        "shapes": EXACT,
        "to_latents": TENSORS,
        "diffusion_loss": NUMBERS,
        "gradients": EXACT,
        "hand_gradients": TENSORS,
        "same": EXACT,
    },
    3: {
        "smoothed": NUMBERS,
        "fell_by": "the share may be off by 0.002",
        "held_out": EXACT,
        "style_share": NUMBERS,
        "beyond_noise": EXACT,
    },
    4: {
        "stack_factors": f"the product of your factors is compared; {TENSORS}",
        "rank_of_sum": EXACT,
        "agreement": NUMBERS,
        "louder": EXACT,
        "seen": WORDS,
    },
    5: {
        "parameters": EXACT,
        "shapes": "the shapes are exact; the ratio may be off by 0.001 of itself",
        "start_noise": "none where a seed comes again; mean and spread have to be those of standard normal numbers",
        "decode": BYTES,
        "same_as_engine": PICTURES,
        "determinism": EXACT,
    },
    6: {
        "by_side": EXACT,
        "sizes": EXACT,
        "share": "the share may be off by 0.000001 of itself",
        "scale": NUMBERS,
        "delta_w": TENSORS,
        "lost_alpha": NUMBERS,
    },
    7: {
        "learns": EXACT,
        "questions": "the timesteps are your choice, spread over the schedule; a second call has to give the same",
        "telling": EXACT,
        "stop_at": EXACT,
    },
    8: {
        "mean_abs_diff": NUMBERS,
        "has_effect": EXACT,
        "clip_scores": TENSORS,
        "diagnose": EXACT,
        "hot_swap": "none, the live numbers have to be the adapter's own",
        "must_be_zero": EXACT,
    },
    9: {
        "one_pixel": "each number may be off by 0.001 of itself",
        "jump": TENSORS,
        "variance": NUMBERS,
        "clean_guess": TENSORS,
        "first_below": EXACT,
    },
    10: {
        "leading": EXACT,
        "ddim_step": TENSORS,
        "same_as_ddim": PICTURES,
        "sweet_spot": EXACT,
    },
    11: {
        "faulty_lines": EXACT,
        "latents_of": TENSORS,
        "noisy_of": TENSORS,
        "states_of": "the states may be off by 0.00001 of each number",
        "adapter_dtype": EXACT,
        "trainable": EXACT,
        "same_as_real": "the change of the weights may differ by 0.001 of itself",
    },
    12: {
        "guided_prediction": TENSORS,
        "no_prompt": TENSORS,
        "same_as_pipeline": PICTURES,
        "shown_captions": "the share that is left out may be off as chance allows, never the rest",
        "read_the_table": EXACT,
    },
    13: {
        "picture_tokens": TENSORS,
        "decoupled": TENSORS,
        "shown_rows": TENSORS,
        "kept": NUMBERS,
    },
    14: {
        "shares": NUMBERS,
        "guided_step": TENSORS,
        "drawing_times": NUMBERS,
        "kept": NUMBERS,
    },
    15: {
        "within_s": NUMBERS,
        "line": NUMBERS,
        "steps_within": EXACT,
        "is_free": EXACT,
        "activation_bytes": EXACT,
        "batch_for": EXACT,
        "choice": EXACT,
    },
    16: {
        "term_layer": EXACT,
        "error_rates": NUMBERS,
        "stacked": EXACT,
        "two_thresholds": NUMBERS,
        "work_queue": EXACT,
    },
    17: {
        "seconds_a_picture": NUMBERS,
        "cost_drawn": NUMBERS,
        "cost_accepted": NUMBERS,
        "cheapest": EXACT,
        "break_even": EXACT,
        "choose": EXACT,
    },
    18: {
        "flow_mix": TENSORS,
        "flow_target": TENSORS,
        "shifted": NUMBERS,
        "euler_step": TENSORS,
        "same_as_engine": PICTURES,
        "text_side": EXACT,
        "adapter_parameters": EXACT,
        "must_be_zero": EXACT,
    },
    19: {
        "relative_move": TENSORS,
        "clean_move": TENSORS,
        "strength_at": NUMBERS,
        "share_of_move": NUMBERS,
    },
}


def tolerance_of(number: int, task: str) -> str:
    """The sentence about one task's tolerance.

    Raises:
        ConfigError: no such lab or task.
    """
    try:
        return TOLERANCES[number][task]
    except KeyError as error:
        raise ConfigError(f"lab {number} has no task '{task}' with a stated tolerance.") from error
