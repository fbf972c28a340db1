"""Foreign text on a terminal: escaped, and the same document where it is JSON or TOML."""

import json
import tomllib

import pytest

from detour.printing import printable, printable_json

EVIL = "a\x00\x1b[2Jb\x9bc\u202ed\u2069\u2028e\x7f\U000e0001\ue000"


def test_plain_text_of_every_script_stays() -> None:
    for text in ("", "neon", "é ü ß", "赤い家\u3000砂漠", "дом", "🏠", "a\u00a0b", "\\u202e"):
        assert printable(text) == text


def test_what_steers_a_terminal_is_escaped() -> None:
    assert printable("\x1b[31m\u202e\x9b") == "\\u001b[31m\\u202e\\u009b"
    assert printable("\U000e0001") == "\\U000e0001"
    assert printable("a\nb\tc") == "a\\u000ab\\u0009c"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\u001b"
    assert printable(EVIL).isprintable()


def test_long_text_is_cut_and_says_so() -> None:
    assert printable("abcdef", longest=3) == "abc…"
    assert printable("abc", longest=3) == "abc"


@pytest.mark.parametrize("indent", [None, 2])
def test_an_escaped_document_is_the_same_document(indent: int | None) -> None:
    document = {EVIL: [EVIL, 1, {"x\ny": "z"}]}
    text = printable_json(json.dumps(document, ensure_ascii=False, indent=indent))
    assert json.loads(text) == document
    assert printable(text, keep="\n") == text


def test_an_escaped_toml_string_is_the_same_string() -> None:
    text = EVIL.replace("\x00", "").replace("\x1b", "").replace("\x7f", "")
    assert tomllib.loads(printable(f'a = "{text}"'))["a"] == text
