"""Thresholds of the verdict on pictures that nobody here has seen; ``docs/verdicts.md`` has the figure behind each."""

NUM_PERMUTATIONS = 999
"""Of every test; the smallest p-value that they can give is 0.001."""

COMPETENCE_P_MAX = 0.01
"""The judge reads something where fewer shuffles than this score as well as the truth."""

COMPETENCE_PICTURES_MIN = 8
"""Fewer pictures cannot show it: three have six orders, and the best p-value is 1/6."""

LOST_P_MAX = 0.01
"""Level at which a loss is called one, after Holm over the figures that can condemn."""

KEPT_P_MAX = 0.05
"""Level at which a loss of the margin is ruled out."""

QUICK_MARGIN = 0.4
"""Share of the expected score whose loss the quick proof has to rule out before something is called kept."""

THOROUGH_MARGIN = 0.25
"""The same for the thorough evaluation, which draws more."""

LOST_REACH = 3.2
"""Standard errors between a loss and none: 2.33 for the level and 0.84 for finding it in four of five cases."""

KEPT_REACH = 2.5
"""Standard errors between a loss and the margin: 1.65 for the level and 0.84 for four of five cases."""

NEEDED_PROMPTS_MAX = 400
"""More prompts than this are not advised."""

NUM_RESAMPLES = 399
"""Drawings of pictures with replacement, for limits of a share."""

CLASS_DRIFT_MAX = 0.25
"""Share of the way to the subject that pictures of its class may go."""

WAY_MIN = 0.65
"""Share of the way to the references that has to be gone before a style is called learned …"""

WAY_LOW_MIN = 0.3
"""… and its lower limit."""

SUBJECT_WAY_MIN = 0.4
"""Share of the way to the subject's own pictures that has to be gone before it is called learned."""

FIRM_REFERENCES_MIN = 6
"""With fewer pictures nobody can tell a style from these pictures."""

GAIN_P_MAX = 0.05
"""Level at which a gain is more than chance."""

FOLLOWING_SHARE_MAX = 0.25
"""Pictures that keep less than this share of the expected score have nothing to do with their prompts."""
