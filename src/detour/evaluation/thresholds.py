"""Thresholds of the proof, which ``docs/verdicts.md`` explains; a test holds the two equal."""

EFFECT_MIN_DIFF = 0.5
"""Smallest mean absolute difference of pictures, in steps of 255, at which an adapter has an effect."""

EFFECT_OVER_NOISE = 3.0
"""Smallest ratio of the difference of pictures to the measured noise floor at which an adapter has an effect."""

SAME_PICTURE_MAX_DIFF = 1
"""Largest difference, in steps of 255 in any channel of any pixel, of two ways to the same picture."""

VALIDATION_GAIN_MIN = 0.01
"""Relative fall of the held-out loss that counts as learning where there is no judge."""

OVERFIT_RISE_MAX = 0.10
"""Largest relative rise of the held-out loss above its lowest value."""

COLLAPSE_SHARE_MAX = 0.25
"""Share of the base's difference between prompts (or of true pictures', where the style has few tones) below which
pictures are collapsed.
"""

COPY_SHARE_MAX = 0.25
"""Largest share of copies of training pictures among pictures of new prompts, beyond the base's."""

COPY_PLANTED_FOUND = 0.95
"""Share of the planted copies that the threshold of a copy has to find."""

COPY_ALIKE_MAX = 0.05
"""Largest share of originals that may lie nearer to another original than the threshold of a copy."""
