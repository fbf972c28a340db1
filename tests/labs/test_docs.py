"""The rendered pages: one for each lab, an index that is not stale, no link that leads nowhere."""

import re
from pathlib import Path

import pytest

from detour.labs.index import LABS, Lab
from detour.labs.pages import MAX_PAGE_BYTES, index_page, measured_labs

DOCS = Path(__file__).parents[2] / "docs" / "labs"
AGAIN = "run `python -m detour.labs.building --render docs/labs`"


def test_the_index_is_made_of_the_figures_beside_it() -> None:
    assert (DOCS / "README.md").read_text(encoding="utf-8") == index_page(measured_labs(DOCS)), AGAIN


def test_every_page_has_its_figures_and_the_index_leads_to_it() -> None:
    assert sorted(measured_labs(DOCS)) == [lab.number for lab in LABS], AGAIN
    linked = re.findall(r"\((lab\d+\.html)\)", (DOCS / "README.md").read_text(encoding="utf-8"))
    assert sorted(linked) == [f"{lab.name}.html" for lab in LABS]


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_a_page_shows_every_heading_of_its_lesson_and_needs_nothing_else(lab: Lab) -> None:
    page = (DOCS / f"{lab.name}.html").read_text(encoding="utf-8")
    assert len(page.encode()) <= MAX_PAGE_BYTES
    assert f"Lab {lab.number} is done" in page
    assert not re.search(r'<(script|link|iframe)|src="(?!data:)', page)
    lesson = lab.source.read_text(encoding="utf-8")
    for heading in re.findall(r"^# ## (.+)$", lesson, re.MULTILINE):
        words = heading.replace("`", "").split(":")[0].split(",")[0]
        assert words in re.sub(r"<[^>]+>", "", page).replace("&#39;", "'"), f"'{heading}': {AGAIN}"
