"""Every threshold of the proof; ``docs/verdicts.md`` explains them, and a test holds the two together."""

EFFECT_MIN_DIFF = 0.5
"""An adapter has an effect when pictures move by more than this, mean absolute, in steps of 255 …"""

EFFECT_OVER_NOISE = 3.0
"""… and by more than this many times the measured noise floor."""

SAME_PICTURE_MAX_DIFF = 1
"""Two ways to the same picture may differ by this many steps of 255 in any channel of any pixel."""

VALIDATION_GAIN_MIN = 0.01
"""Without a judge: the loss on pictures kept out must fall by this share of its first value."""

OVERFIT_RISE_MAX = 0.10
"""The loss on pictures kept out may end this share above its lowest value."""

COLLAPSE_SHARE_MAX = 0.25
"""Different prompts must differ by more than this share of how much the base's (or, where the style itself
has few tones, the true pictures') differ from each other."""

COPY_SHARE_MAX = 0.25
"""No more than this share of the pictures for new prompts, beyond the base's, may be copies of training pictures."""

COPY_PLANTED_FOUND = 0.95
"""A copy is what lies nearer to an original than this share of the copies that were planted of the originals do …"""

COPY_ALIKE_MAX = 0.05
"""… and nearer than different originals lie to each other, but for this share of them."""
