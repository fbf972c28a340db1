"""The rendered pages: one for each lab, an index that is not stale, no link that leads nowhere."""

import re
from pathlib import Path

import pytest

from detour.labs.index import LABS, Lab
from detour.labs.pages import MAX_PAGE_BYTES, index_page, measured_labs
from detour.labs.sources import notebook_of
from tests.docs.pages import name_of, pages, prose_of

DOCS = Path(__file__).parents[2] / "docs" / "labs"
TEX = re.compile(r"\$[^$]+\$|\\[a-zA-Z]{2,}")
"""A formula between dollars, and commands of LaTeX: pages are read without anything that would typeset them."""

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


def formulas_of(html: str) -> list[str]:
    """Formulas in LaTeX that a reader of the page would see as typed; code and outputs may have such signs."""
    seen = re.sub(r"<(style|pre)\b.*?</\1>|<[^>]+>", "", html, flags=re.DOTALL)
    return TEX.findall(seen)


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_no_page_shows_a_formula_as_it_was_typed(lab: Lab) -> None:
    assert formulas_of((DOCS / f"{lab.name}.html").read_text(encoding="utf-8")) == []
    pytest.importorskip("jupytext")
    cells = [cell.source for cell in notebook_of(lab, "solution").cells if cell.cell_type == "markdown"]
    assert formulas_of("\n".join(cells)) == []


def test_no_page_of_the_docs_shows_a_formula_as_it_was_typed() -> None:
    found = {name_of(page): TEX.findall(prose_of(page)) for page in pages()}
    assert {name: formulas for name, formulas in found.items() if formulas} == {}


@pytest.mark.parametrize("typed", ["$x$", "$$\n\\hat x\n$$", "<p>a \\cdot b</p>", "<code>$x$</code>"])
def test_a_formula_as_it_was_typed_is_found(typed: str) -> None:
    assert formulas_of(typed)
