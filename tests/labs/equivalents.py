"""Generated changes that are no mistakes, and why each is none. Nothing else that is generated may pass."""

from collections.abc import Mapping

ORDER = "a distance or a set is the same from both sides"
FREE = "the sentences are the learner's own, and nobody grades what they say"
OWN_CHOICE = "which timesteps is the learner's choice, as long as they cover the schedule evenly"

EQUIVALENT: Mapping[tuple[int, str], Mapping[str, str]] = {
    (2, "diffusion_loss"): {
        "predict_noise(noisy, timestep) - noise -> noise - predict_noise(noisy, timestep)": ORDER,
    },
    (3, "smoothed"): {"max(0, end - window) -> max(end - window, 0)": ORDER},
    (3, "beyond_noise"): {
        "first - first_again -> first_again - first": ORDER,
        "min(abs(second - first), abs(second - first_again)) -> "
        "min(abs(second - first_again), abs(second - first))": ORDER,
        "second - first -> first - second": ORDER,
        "second - first_again -> first_again - second": ORDER,
    },
    (4, "louder"): {"pairs: one there twice": "a set of pairs is asked for"},
    (4, "seen"): {
        "at 1 and 1 and lower weights exchanged": FREE,
        "lower weights and the prediction exchanged": FREE,
    },
    (5, "start_noise"): {
        "the other sign": "minus standard normal noise is standard normal noise",
        "a hundredth more": "the spread of a few hundred numbers cannot be told so exactly; the next task sees it",
    },
    (6, "lost_alpha"): {"1 - scale(rank, alpha) -> scale(rank, alpha) - 1": ORDER},
    (7, "questions"): {
        "torch.linspace(100, 900, num) -> torch.linspace(900, 100, num)": "any order will do",
        "100 -> 101": OWN_CHOICE,
        "100 -> 99": OWN_CHOICE,
        "100 -> 0": OWN_CHOICE,
        "900 -> 901": OWN_CHOICE,
        "900 -> 899": OWN_CHOICE,
    },
    (8, "mean_abs_diff"): {
        "first.astype(np.int16) - second.astype(np.int16) -> second.astype(np.int16) - first.astype(np.int16)": ORDER,
        "first.astype(np.int16) -> first": "NumPy widens the other side by itself",
        "second.astype(np.int16) -> second": "NumPy widens the other side by itself",
    },
    (8, "diagnose"): {"names & set(patient.adapter.layers) -> set(patient.adapter.layers) & names": ORDER},
    (11, "trainable"): {"exchanged": "the order of parameters is that of no task"},
    (11, "same_as_real"): {
        "difference: doubled": "within the stated tolerance",
        "difference: half": "within the stated tolerance",
        "difference: zero": "no difference at all",
        "difference: two per cent more": "within the stated tolerance",
    },
    (15, "steps_within"): {
        "max(0, math.floor((budget_s - fixed) / each)) -> max(math.floor((budget_s - fixed) / each), 0)": (
            "the larger of two is the same from both sides"
        ),
    },
    (17, "cost_drawn"): {
        "3600 -> 3601": "within the stated tolerance",
        "3600 -> 3599": "within the stated tolerance",
    },
    (19, "relative_move"): {"with_it - without -> without - with_it": ORDER},
    (12, "shown_captions"): {
        "chance_for(SEED, step, index, purpose='caption') < share -> "
        "chance_for(SEED, step, index, purpose='caption') <= share": "no chance is exactly the share",
        "chance_for(SEED, step, index, purpose='caption') -> chance_for(step, SEED, index, purpose='caption')": (
            "another pure function of the same three numbers"
        ),
    },
}
