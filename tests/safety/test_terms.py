"""Layer 1: disguises that a reader sees through are found, and words that merely hold the letters are not."""

import time

import pytest

from detour.errors import ConfigError
from detour.safety.normalising import normalised
from detour.safety.policy_file import CategorySpec, TermsSpec
from detour.safety.terms import MAX_CHARS, TermFinder


def finder(*terms: str, allow: tuple[str, ...] = ()) -> TermFinder:
    return TermFinder(TermsSpec(categories=(CategorySpec(name="it", terms=terms, allow=allow),)))


CROWNS = finder("crown*", "tiara", "royal headgear", "king & hat", allow=("crown prince", "crown of a tree"))

DISGUISED = [
    "a crown", "A CROWN!", "crowns", "crowned cat", "the crown's edge", "crown-shaped", "(crown:1.3)", "[crown]",
    "cr(o)wn", "c(r:1.2)own", "cr0wn", "(r0wn", "<rown", "cr0vvn", "c.r.o.w.n", "c-r-o-w-n", "c_r_o_w_n", "c r o w n",
    "cro wn", "cr own", "c rown", "c r 0 w n", "crooown", "cccrown", "cr*wn", "c#own", "cro?n", "сrоwп", "c\u200brown",
    "cro\u00adwn", "c\u0335r\u0335o\u0335w\u0335n\u0335", "𝓬𝓻𝓸𝔀𝓷", "ⓒⓡⓞⓦⓝ",
    "🅒🅡🅞🅦🅝", "🇨🇷🇴🇼🇳",
    "ｃｒｏｗｎ",
    "ᴄʀᴏᴡɴ",
    "👑",
    "crσωη", "cr\u00f6wn", "a red crown.", "crown,red", "c'r'o'w'n", "a r e d c r o w n", "TIARAS", "t1ara",
    "royal headgear",
    "royal-headgear", "royalheadgear", "a hat of the king", "Королевский crown", "cr\nown", "c\u2060rown",
    "\u202ecrown", "corwn", "a crwon", "CRWONS", "tiaars",
]  # fmt: skip


@pytest.mark.parametrize("text", DISGUISED)
def test_a_term_is_found_in_every_disguise(text: str) -> None:
    assert [hit.category for hit in CROWNS.find(text)] == ["it"], normalised(text)


HARMLESS = [
    "a brown crow", "a crowd in town", "crow nest", "micro wnba", "macro wonders", "grown cat", "drown", "crayon",
    "the crown prince", "the crown of a tree", "a king", "a hat", "headgear", "royal", "8 cows in 1900", "",
    "   ", "…", "(())", "c r o w", "cro", "rcown", "cornw", "wrocn",
]  # fmt: skip


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_similar_is_left_alone(text: str) -> None:
    assert CROWNS.find(text) == []


# Places and words that filters of letters are known to refuse: Scunthorpe, Penistone, and their kind.
RUDE = finder("ass", "arse", "cunt", "penis", "tit", "cock", "shit", "hell", "rape", "rapist", "anal", "cum", "isis",
              "nazi", "sex", "nude*", "cialis")  # fmt: skip
SCUNTHORPE = [
    "Scunthorpe", "Penistone", "Clitheroe", "Lightwater", "Middlesex", "Essex", "Sussex", "a classic glass",
    "assassin bass", "pass the grass", "a cocktail dress", "a peacock", "a cockatoo", "Hitchcock", "Shitake",
    "a therapist", "grapes", "drapes", "analysis of a canal", "a document", "circumstance", "specialist", "socialist",
    "he'll go", "she'll", "we'll see hello", "shell", "Titanic title", "a tithe", "constitution", "parse", "coarse",
    "arsenal", "Arsène", "pen island", "Sextant", "sextet", "Mr Dickens", "as soon as", "it is island",
    "is it so", "I am at it", "unisex", "as if", "an alley", "a nail", "class 455",
    "cumin", "cucumber", "Nazareth", "hellebore", "Michelle", "skyscraper", "a 1970s house", "4k", "3d", "f/1.4",
    "as, so", "Anna Lee", "rap music",
]  # fmt: skip


@pytest.mark.parametrize("text", SCUNTHORPE)
def test_places_and_words_that_hold_a_term_are_no_false_alarm(text: str) -> None:
    assert RUDE.find(text) == []


@pytest.mark.parametrize(
    "text", ["a55", "@ss", "a.s.s", "p3nis", "p e n i s", "sh1t", "sh!t", "n4z1", "he11", "nudes"]
)
def test_short_terms_are_found_in_disguise_too(text: str) -> None:
    assert RUDE.find(text)


def test_exchanged_neighbours_are_allowed_like_any_word() -> None:
    assert [hit.disguise for hit in finder("trail").find("a trial in court")] == ["transposed letters"]
    assert finder("trail", allow=("trial",)).find("a trial in court") == []
    assert finder("form", "angel").find("a picture from the right angle") == []


def test_a_term_in_another_script_is_found() -> None:
    assert finder("корона").find("золотая КОРОНА")
    assert finder("王冠").find("王冠")


def test_every_category_that_is_found_is_named_with_its_own_action() -> None:
    found = TermFinder(
        TermsSpec(
            categories=(
                CategorySpec(name="one", terms=("crown",), action="change"),
                CategorySpec(name="two", terms=("*own*",), action="hold"),
                CategorySpec(name="three", terms=("owl",)),
            )
        )
    ).find("a cr0wn")
    assert [(hit.category, hit.action, hit.disguise) for hit in found] == [
        ("one", "change", "signs for letters"),
        ("two", "hold", "signs for letters"),
    ]


def test_a_term_without_letters_is_refused() -> None:
    with pytest.raises(ConfigError, match="no letters or digits"):
        finder("***")


def test_a_hostile_text_is_refused_or_read_in_time() -> None:
    with pytest.raises(ConfigError, match="at most"):
        CROWNS.find("a" * (MAX_CHARS + 1))
    began = time.process_time()
    for text in (
        "c r o w " * 2400,
        "cro" * 6000,
        "(" * MAX_CHARS,
        "*a" * (MAX_CHARS // 2),
        "\u0335" * MAX_CHARS,
    ):
        CROWNS.find(text)
    assert time.process_time() - began < 5
