"""Thresholds of the verdict on pictures of any style; ``docs/verdicts.md`` has the measurement behind each."""

NUM_PERMUTATIONS = 999
"""Number of permutations of every test; the smallest p-value is 0.001."""

COMPETENCE_P_MAX = 0.01
"""Largest share of shuffles that may score as well as the truth for a judge that can read."""

COMPETENCE_PICTURES_MIN = 8
"""Smallest number of pictures on which competence can be shown: three have six orders, so the best p-value is 1/6."""

LOST_P_MAX = 0.01
"""Level at which a figure counts as lost, after Holm's correction over the figures that can condemn."""

KEPT_P_MAX = 0.05
"""Level at which a loss of the margin is ruled out."""

QUICK_MARGIN = 0.4
"""Share of the expected score whose loss the quick proof has to rule out before something is called kept."""

THOROUGH_MARGIN = 0.25
"""Share that the thorough evaluation, which draws more pictures, has to rule out."""

LOST_REACH = 3.2
"""Standard errors between a loss and none: 2.33 for the level and 0.84 for a power of four in five."""

KEPT_REACH = 2.5
"""Standard errors between a loss and the margin: 1.65 for the level and 0.84 for a power of four in five."""

NEEDED_PROMPTS_MAX = 400
"""Largest number of prompts that is advised."""

READ_LESS = 0.2
"""Share by which the right word may win less often in the adapter's pictures than in both controls and be kept."""

NUM_RESAMPLES = 399
"""Number of bootstrap resamples for the limits of a share."""

CLASS_DRIFT_MAX = 0.25
"""Largest share of the way to the subject that pictures of its class may go."""

WAY_MIN = 0.65
"""Smallest share of the way to the references at which a style counts as learned."""

WAY_LOW_MIN = 0.3
"""Smallest lower limit of the share of the way at which a style counts as learned."""

SUBJECT_WAY_MIN = 0.4
"""Smallest share of the way to the subject's own pictures at which it counts as learned."""

FIRM_REFERENCES_MIN = 6
"""Smallest number of references that distinguish a style from these single pictures."""

GAIN_P_MAX = 0.05
"""Level at which a gain is more than chance."""

FOLLOWING_SHARE_MAX = 0.25
"""Share of the expected score below which pictures have nothing to do with their prompts."""
