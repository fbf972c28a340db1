"""Makes prompts that training never saw: given ones, held-out captions, or trained things in new places."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from detour.data.captions import one_line, with_trigger
from detour.errors import ConfigError
from detour.evaluation.compared import Part

PromptSource = Literal["given", "world", "caption", "template"]

SOURCES: dict[PromptSource, str] = {
    "given": "given by the user",
    "world": "written by the world of the embedded base",
    "caption": "from captions of pictures that were kept out",
    "template": "made of things that the captions name, in places where no caption has them",
}
"""Source of a prompt → how it is called in a sentence."""

PLACES = (
    ("on a beach", "beach"), ("in a forest", "forest"), ("in the snow", "snow"), ("in a library", "library"),
    ("on a city street at night", "street"), ("in a desert", "desert"), ("in a kitchen", "kitchen"),
    ("on a mountain top", "mountain"), ("under water", "water"), ("in a castle", "castle"), ("on the moon", "moon"),
    ("in a garden", "garden"), ("on a boat", "boat"), ("at a train station", "station"), ("in a cave", "cave"),
    ("on a roof in the rain", "roof"),
)  # fmt: skip
"""Places of templates, each with the word that shows that a caption names the place already."""

ACTIONS = (
    ("floating on a lake", "float"), ("flying through the clouds", "fly"), ("rolling down a hill", "roll"),
    ("lying in tall grass", "grass"), ("leaning against a brick wall", "brick"), ("falling through the air", "fall"),
    ("hanging from a tree", "hang"), ("standing on a red carpet", "carpet"),
)  # fmt: skip
"""Actions of templates that any subject can do, each with the word that shows that a caption names it already."""

EVERYDAY = (
    "a bowl of fruit on a wooden table", "a bicycle leaning against a brick wall", "a portrait of an old man",
    "a lighthouse by the sea", "a plate of spaghetti", "a horse on a meadow", "a vase of tulips by a window",
    "a steam train in the mountains", "a city skyline at night", "an astronaut", "a violin on a chair",
    "a red sports car",
)  # fmt: skip
"""Everyday prompts, to measure whether an adapter changes pictures of unrelated things."""

MAX_THING_WORDS = 5
"""Largest number of words of a phrase that counts as a thing."""

_OPENING = re.compile(
    r"^(?:an?|the|one|two|some)?\s*(?:\w+\s+)?(?:photo(?:graph)?|picture|image|painting|drawing|illustration|sketch|"
    r"render(?:ing)?|close[- ]?up|portrait)\s+of\s+",
    re.IGNORECASE,
)
_PLACE = re.compile(
    r"(?:^|\s)(?:in|on|at|by|near|under|with|without|beside|behind|over|inside|during|next to|in front of|"
    r"standing|sitting|lying|walking|running|wearing|holding|looking|while|and)\s.*$",
    re.IGNORECASE,
)


class HeldOutPrompt(Part):
    """A prompt with its source."""

    prompt: str
    """Prompt with the trigger."""
    plain: str
    """Prompt without the trigger, which says what the picture has to show."""
    source: PromptSource


def given_prompts(prompts: Sequence[str], captions: Iterable[str], trigger: str) -> tuple[HeldOutPrompt, ...]:
    """Prompts of the user without duplicates.

    Args:
        prompts: as they were written.
        captions: of the pictures that were trained on.
        trigger: put in front where it is missing.

    Raises:
        ConfigError: one of them is a caption of the training data, which says nothing of what was learned; or empty.
    """
    trained = {_words(caption, trigger): caption for caption in captions}
    found = dict.fromkeys(one_line(prompt) for prompt in prompts)
    for prompt in found:
        if not prompt:
            raise ConfigError("an empty prompt cannot be judged. Say what the picture should show.")
        if _words(prompt, trigger) in trained:
            raise ConfigError(
                f"prompt '{prompt}' is a training caption ('{trained[_words(prompt, trigger)]}'), and what was seen "
                "in training proves nothing. Ask for something new."
            )
    return tuple(_prompt(prompt, trigger, "given") for prompt in found)


def caption_prompts(
    held_out: Sequence[str], captions: Iterable[str], trigger: str
) -> tuple[HeldOutPrompt, ...]:
    """Captions of held-out pictures, without those that training pictures have too.

    Args:
        held_out: of the pictures that were kept out.
        captions: of the pictures that were trained on.
        trigger: of the data.
    """
    trained = {_words(caption, trigger) for caption in captions}
    new = {words: one for one in held_out if (words := _words(one, trigger)) and words not in trained}
    return tuple(_prompt(caption, trigger, "caption") for caption in new.values())


def template_prompts(
    captions: Sequence[str], trigger: str, *, count: int, things: Sequence[str] = ()
) -> tuple[HeldOutPrompt, ...]:
    """Things of the captions in places where no caption has them.

    Args:
        captions: of the training data, or its tags.
        trigger: of the data; the only thing where captions name none.
        count: of prompts at most.
        things: what the data is of, where the user said so; before those that captions name.

    Returns:
        at most ``count``; fewer where things and places run out, none where nothing is named.
    """
    named = [*dict.fromkeys((*things, *_things(captions, trigger)))] or ([trigger] if trigger else [])
    lower = [caption.lower() for caption in captions]
    taken = {sign for _, sign in PLACES if any(sign in caption for caption in lower)}
    # Places that no caption names come first; then those that one names with another thing.
    places = sorted(PLACES, key=lambda place: place[1] in taken)
    pairs = (
        (thing, *places[(shift + turn) % len(places)])
        for shift in range(len(places))
        for turn, thing in enumerate(named)
    )
    trained = {_words(caption, trigger) for caption in captions}
    new = (
        f"{thing} {phrase}"
        for thing, phrase, sign in pairs
        if not any(sign in caption and thing.lower() in caption for caption in lower)
    )
    found = [prompt for prompt in dict.fromkeys(new) if _words(prompt, trigger) not in trained]
    return tuple(_prompt(prompt, trigger, "template") for prompt in found[:count])


@dataclass(frozen=True, kw_only=True)
class SubjectWords:
    """Words by which prompts name a subject and its class.

    Attributes:
        trigger: of the data; may be empty.
        called: the subject with its rare word: ``a sks cat``.
        of_class: what it is one of, without that word: ``a cat``.
    """

    trigger: str
    called: str
    of_class: str

    def class_prompt(self, prompt: str) -> str:
        """Replace the subject by its class in a prompt."""
        if self.called in prompt:
            return prompt.replace(self.called, self.of_class, 1)
        plain = _without(prompt, self.trigger)
        if self.trigger and self.trigger in plain:
            head = self.of_class.split()[-1]
            plain = one_line(plain.replace(self.trigger, head if head in self.trigger.split() else "", 1))
        return plain if plain != prompt else f"{self.of_class}, {prompt}"


def subject_words(captions: Sequence[str], trigger: str, class_prompts: Sequence[str]) -> SubjectWords | None:
    """Words by which captions and settings name a subject and its class.

    Args:
        captions: of the training data, trigger included.
        trigger: of the data; may be empty.
        class_prompts: what the user calls the class, the first one counts.

    Returns:
        ``None`` where nothing tells the subject from its class.
    """
    of_class = class_prompts[0] if class_prompts else ""
    things = _things(captions, "")
    named = [one for one in things if trigger and _bare(trigger) in _bare(one)] if trigger else things
    called = named[0] if named else trigger
    if called and not of_class and trigger:
        of_class = one_line(re.sub(re.escape(trigger), "", called, flags=re.IGNORECASE))
    if not called or not of_class or _bare(called) == _bare(of_class):
        return None
    head = of_class.split()[-1].lower()
    if head not in _bare(called).split():
        called = f"{called}, {of_class}"
    else:  # what a caption says behind the class is what the subject does there, and no part of its name
        called = re.sub(
            rf"(\b{re.escape(head)}\b).*", r"\1", called, count=1, flags=re.IGNORECASE | re.DOTALL
        )
        if trigger and _bare(trigger) not in _bare(called):
            called = f"{trigger} {head}"
    return SubjectWords(trigger=trigger, called=called, of_class=of_class)


@dataclass(frozen=True, kw_only=True)
class NewScene:
    """Where a prompt puts a subject, and when, or what it does.

    Attributes:
        place: ``in the desert``, or an action.
        moment: ``at night``; empty for the day.
    """

    place: str
    moment: str = ""

    def __str__(self) -> str:
        return f"{self.place} {self.moment}".strip()


def new_scenes(
    captions: Sequence[str],
    places: Sequence[tuple[str, str]] = PLACES,
    *,
    count: int,
    moments: Sequence[str] = (),
    actions: Sequence[tuple[str, str]] = (),
) -> tuple[NewScene, ...]:
    """Scenes for a subject that no caption names, all different.

    Args:
        captions: of the training data.
        places: phrase, and the word that tells whether a caption has the place already.
        count: of scenes; fewer come back where there are no more.
        moments: that vary a place: ``at night``.
        actions: phrase and word as of places; every fourth scene is one.
    """
    lower = [caption.lower() for caption in captions]

    def unnamed(phrases: Sequence[tuple[str, str]]) -> list[str]:
        return [phrase for phrase, sign in phrases if not any(sign in caption for caption in lower)]

    new, times = unnamed(places), ["", *moments]
    if len(new) < 2:
        new = [phrase for phrase, _ in places]
        unsaid = [one for one in moments if not any(one in caption for caption in lower)]
        times = unsaid or times
    turns = [(i, turn) for turn in range(len(times)) for i in range(len(new))]
    found = [NewScene(place=new[i], moment=times[(i + turn) % len(times)]) for i, turn in turns]
    for number, phrase in enumerate(unnamed(actions)):
        found.insert(4 * number + 3, NewScene(place=phrase))
    return tuple(found[:count])


def unrelated_prompts(captions: Iterable[str], count: int) -> tuple[str, ...]:
    """Everyday prompts that share the fewest words of four letters and more with the captions.

    Args:
        captions: of the training data, or its tags.
        count: of prompts, at most twelve.
    """
    known = {word for caption in captions for word in _bare(caption).split()}
    shared = {one: sum(len(word) > 3 and word in known for word in one.split()) for one in EVERYDAY}
    chosen = sorted(EVERYDAY, key=lambda one: shared[one])[:count]
    return tuple(one for one in EVERYDAY if one in chosen)


def prompts_sentence(prompts: Sequence[HeldOutPrompt]) -> str:
    """Sentence on where the prompts come from."""
    counts = Counter(prompt.source for prompt in prompts)
    parts = [f"{count} {SOURCES[source]}" for source, count in counts.items()]
    return f"{len(prompts)} prompt{'s' * (len(prompts) != 1)} that training never saw: {'; '.join(parts)}."


def _things(captions: Iterable[str], trigger: str) -> list[str]:
    """First thing that each caption names, the most frequent ones first."""
    counts = Counter(thing for caption in captions if (thing := _thing(caption, trigger)))
    return [thing for thing, _ in counts.most_common()]


def _thing(caption: str, trigger: str) -> str:
    for part in caption.split(","):
        if _bare(part) == _bare(trigger):
            continue
        thing = one_line(_PLACE.sub("", _OPENING.sub("", one_line(part)))).strip(" .;:!?")
        if thing and len(thing.split()) <= MAX_THING_WORDS:
            return thing
    return ""


def _prompt(prompt: str, trigger: str, source: PromptSource) -> HeldOutPrompt:
    return HeldOutPrompt(
        prompt=with_trigger(prompt, trigger), plain=_without(prompt, trigger) or prompt, source=source
    )


def without_trigger(caption: str, trigger: str) -> str:
    """Caption for a judge, without the trigger, which no judge knows."""
    return _without(caption, trigger) or caption


def _without(prompt: str, trigger: str) -> str:
    """Prompt without a trigger that stands in front of it as a part of its own."""
    first, comma, rest = prompt.partition(",")
    return rest.strip() if comma and _bare(first) == _bare(trigger) else prompt


def _words(text: str, trigger: str) -> str:
    """Words in lower case without punctuation and trigger; captions with equal words count as one."""
    words, marks = _bare(text), _bare(trigger)
    return " ".join((f" {words} ".replace(f" {marks} ", " ", 1) if marks else words).split())


def _bare(text: str) -> str:
    return " ".join(re.sub(r"[^\w<>]+", " ", text.lower()).split())
