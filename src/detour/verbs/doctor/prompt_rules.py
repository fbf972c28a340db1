"""What is wrong with a prompt, told from its words alone."""

import re
from collections.abc import Iterator, Sequence

from detour.generation.prompts import read_weights, without_weights
from detour.verbs.doctor.finding import Finding, Rule

HIGHEST_WEIGHT = 2.0
"""Largest weight of a word; beyond, its states are further from the empty prompt's than those of any text."""

WINDOW_TOKENS = 75
"""Tokens that a text encoder reads at once."""

OPPOSITES = (
    (("by day", "daylight", "daytime"), ("at night", "by night", "nighttime")),
    (("indoors",), ("outdoors",)),
    (("black and white", "monochrome", "grayscale"), ("colourful", "colorful", "vibrant colours", "vibrant colors")),
    (("close-up", "closeup"), ("wide shot", "full body", "long shot")),
    (("sharp focus",), ("blurry", "out of focus")),
    (("symmetrical",), ("asymmetrical",)),
    (("empty street", "no people", "nobody"), ("crowded", "crowd of people")),
)  # fmt: skip
"""Phrases that a single picture can hardly both keep."""

EMPTY = Rule(
    name="prompt-empty",
    subject="prompt",
    severity="warning",
    fires="a prompt without words",
    cause="Guidance has nothing to steer towards, so the picture shows whatever the base draws without a prompt.",
    fix="Write what the picture should show.",
)
LONG = Rule(
    name="prompt-long",
    subject="prompt",
    severity="warning",
    fires=f"a prompt of more than {WINDOW_TOKENS} tokens",
    cause="Windows of 75 tokens are encoded separately, so words of different windows do not affect each other.",
    fix="Shorten it to 75 tokens, or put BREAK where a new thought begins.",
)
CUT = Rule(
    name="prompt-cut",
    subject="prompt",
    severity="warning",
    fires="a prompt of a run of more than 75 tokens; prompts of runs are read as captions are",
    cause="What comes after the 75th token is cut off.",
    fix="Shorten it to 75 tokens, with what matters first.",
)
CONTRADICTED = Rule(
    name="prompt-against-negative",
    subject="prompt",
    severity="warning",
    fires="a phrase between commas that is in the prompt and in the negative prompt",
    cause="Guidance steers towards the phrase and away from it at once.",
    fix="Remove it from one of them.",
    sure=True,
)
OPPOSED = Rule(
    name="prompt-contradicts-itself",
    subject="prompt",
    severity="warning",
    fires="two phrases that contradict each other: " + "; ".join(f"{a[0]} and {b[0]}" for a, b in OPPOSITES),
    cause="The base draws a mixture, or one of the two by chance.",
    fix="Choose one, and put the other into --negative.",
)
NO_TRIGGER = Rule(
    name="trigger-missing",
    subject="prompt",
    severity="warning",
    fires="an adapter was trained with a trigger, and the prompt does not contain it",
    cause="The adapter learned its subject or style together with that word.",
    fix="Put the trigger into the prompt as it was trained.",
    sure=True,
)
LORA_TAG = Rule(
    name="lora-tag",
    subject="prompt",
    severity="error",
    fires="<lora:NAME:WEIGHT>, <lyco:…> or <hypernet:…> in a prompt",
    cause="AUTOMATIC1111 adds adapters in this way; here the text encoder would read it as words.",
    fix="Name the adapter's file with --lora FILE:WEIGHT.",
    sure=True,
)
EDITED = Rule(
    name="prompt-editing",
    subject="prompt",
    severity="warning",
    fires="[from:to:0.5] or [one|other] in a prompt",
    cause="Prompts that change along the steps are not supported: all of the words are read at every step.",
    fix="Write one prompt; --lora-steps changes the strength of adapters along the steps.",
    sure=True,
)
OPEN_BRACKETS = Rule(
    name="brackets-open",
    subject="prompt",
    severity="warning",
    fires="brackets that are not closed",
    cause="A bracket that is never closed gives its weight to everything up to the end.",
    fix="Close it, or write \\( for a bracket that is meant.",
    sure=True,
)
HEAVY = Rule(
    name="weight-extreme",
    subject="prompt",
    severity="warning",
    fires=f"a weight above {HIGHEST_WEIGHT:g} or below 0; '(at 12:30)' is read as one",
    cause="The text states leave the range that the base was trained on, and pictures fall apart.",
    fix="Stay between 0.5 and 1.5; write \\( \\) where brackets are meant.",
    sure=True,
)
RULES = (
    EMPTY, LONG, CUT, CONTRADICTED, OPPOSED, NO_TRIGGER, LORA_TAG, EDITED, OPEN_BRACKETS, HEAVY,
)  # fmt: skip

_LORA = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
_EDITED = re.compile(r"(?<!\\)\[(?:[^\[\]]*:[^\[\]]*:\s*[\d.]+|[^\[\]]*\|[^\[\]]*)\]")
_ESCAPED = re.compile(r"\\[()\[\]\\]")


def examine_prompt(
    prompt: str,
    *,
    negative: str = "",
    triggers: Sequence[str] = (),
    tokens: int = 0,
    where: str = "prompt",
    plain: bool = False,
) -> Iterator[Finding]:
    """Look for faults in a prompt.

    Args:
        prompt: as written, with its brackets.
        negative: what guidance steers away from.
        triggers: of each adapter, what it was trained under; of several, separated by commas, one is enough, as nobody
            asks for all subjects of an adapter at once.
        tokens: of the prompt without its brackets.
        where: names it in findings.
        plain: it is read as captions are: brackets are brackets.
    """
    words = _words(prompt if plain else without_weights(prompt))
    if not words.strip():
        yield EMPTY.found("the prompt has no words", where)
        return
    if tokens > WINDOW_TOKENS:
        yield LONG.found(f"'{prompt[:40]}…' has {tokens} tokens", where)
    for one in () if plain else (prompt, negative):
        yield from _syntax(one, where)
    both = sorted(_phrases(prompt) & _phrases(negative))
    if both:
        yield CONTRADICTED.found(f"'{both[0]}' is in the prompt and in the negative prompt", where)
    for some, others in OPPOSITES:
        here, there = (next((p for p in side if _has(words, p)), None) for side in (some, others))
        if here and there:
            yield OPPOSED.found(f"'{here}' and '{there}' in one prompt", where)
    for trigger in triggers:
        known = [one for part in trigger.split(",") if (one := _words(part))]
        if known and not any(_has(words, one) for one in known):
            yield NO_TRIGGER.found(f"'{prompt[:40]}' is without the trigger '{trigger}'", where)


def _syntax(prompt: str, where: str) -> Iterator[Finding]:
    tag = _LORA.search(prompt)
    if tag:
        yield LORA_TAG.found(f"'{tag.group()[:60]}' in the prompt", where)
    edited = _EDITED.search(prompt)
    if edited:
        yield EDITED.found(f"'{edited.group()[:60]}' in the prompt", where)
    bare = _ESCAPED.sub("", prompt)
    for opening, closing in ("()", "[]"):
        if bare.count(opening) != bare.count(closing):
            yield OPEN_BRACKETS.found(
                f"{bare.count(opening)} '{opening}' and {bare.count(closing)} '{closing}'", where
            )
    for span in read_weights(prompt):
        if not 0 <= span.weight <= HIGHEST_WEIGHT:
            yield HEAVY.found(f"'{span.text[:40]}' has weight {span.weight:.3g}", where)


def _words(text: str) -> str:
    """Lower case, one space between words."""
    return " ".join(text.lower().split())


def _phrases(prompt: str) -> set[str]:
    """What stands between commas, without weights."""
    pieces = re.split(r"[,\n;]", without_weights(prompt))
    return {words for piece in pieces if (words := _words(piece).strip(" ."))}


def _has(words: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", words) is not None
