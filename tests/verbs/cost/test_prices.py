"""The operator's price file: an empty template is refused, dates count, and nothing is filled in for anybody."""

import re
from datetime import date
from pathlib import Path

import pytest

from detour.errors import ConfigError
from detour.verbs.cost.prices import TEMPLATE, read_prices

FILLED = """
currency = "EUR"
[machine]
name = "rented"
per_hour = 0.36
date = 2026-01-15
[training]
per_adapter = 12.0
pictures_per_adapter = 1000
date = 2026-03-01
[[hosted]]
name = "by the picture"
per_picture = 0.01
date = 2025-06-01
[[hosted]]
name = "by area"
per_megapixel = 0.02
per_training = 2.0
date = 2026-02-01
[[other]]
name = "stock"
per_picture = 5.0
date = 2026-02-01
"""


def write(folder: Path, text: str) -> Path:
    (folder / "prices.toml").write_text(text)
    return folder / "prices.toml"


def test_the_empty_template_is_refused_and_says_what_to_fill_in(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Fill in every line of the template"):
        read_prices(write(tmp_path, TEMPLATE))


def test_every_key_of_the_template_is_one_that_is_read(tmp_path: Path) -> None:
    text = re.sub(r"^# (?=\[|\w+ =)", "", TEMPLATE, flags=re.M)
    lines = []
    for line in text.splitlines():
        key, equals, rest = line.partition("=")
        if not equals or line.startswith("#"):
            lines.append(line)
        elif key.strip() == "date":
            lines.append("date = 2026-01-01")
        else:
            is_text = '""' in rest
            lines.append(f"{key}= " + ('"x"' if is_text else "3"))
    prices = read_prices(write(tmp_path, "\n".join(lines)))
    assert prices.machine.per_hour == 3
    assert prices.training is not None
    assert len(prices.hosted) == len(prices.other) == 1


def test_the_template_holds_no_price() -> None:
    code = [line.partition("#")[2 if line.startswith("# ") else 0] for line in TEMPLATE.splitlines()]
    assert not [line for line in code if re.search(r"=\s*[1-9]", line)]


def test_a_price_older_than_asked_is_named_and_one_of_the_future_too(tmp_path: Path) -> None:
    prices = read_prices(write(tmp_path, FILLED))
    said = prices.old(date(2026, 2, 20), months=6)
    assert len(said) == 2
    assert "training is dated 2026-03-01, which is after today" in said[0]
    assert "hosted 'by the picture' is 9 months old (2025-06-01)" in said[1]
    assert prices.old(date(2026, 3, 1), months=12) == []


def test_a_megapixel_price_grows_with_the_area(tmp_path: Path) -> None:
    prices = read_prices(write(tmp_path, FILLED))
    assert prices.hosted[1].price_of(1000, 500) == pytest.approx(0.01)
    assert prices.hosted[0].price_of(1000, 500) == 0.01


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("per_hour = 0.36", "per_hour = 0.0", "machine.per_hour"),
        ("per_hour = 0.36\n", "", "machine.per_hour"),
        ("date = 2026-01-15", 'date = "soon"', "machine.date"),
        ("per_picture = 0.01", "per_picture = 0.01\nper_megapixel = 1.0", "exactly one"),
        ("per_picture = 0.01\n", "", "exactly one"),
        ("per_hour", "per_our", "per_hour"),
        ('currency = "EUR"', 'currency = ""', "currency"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_prices(write(tmp_path, FILLED.replace(old, new, 1)))
