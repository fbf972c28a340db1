"""The course's figure blocks: compared within a tolerance, and rewritten with date and machine."""

import re

import pytest
from benchmarks.course import BLOCKS, COURSE, Block, as_text, differences, rows_of, text_of

from benchmarks import course

BLOCK = Block(page="x.md", head=("weight", "score", "objects"), within=(0, 0.02, 10), measure=lambda: [])
MEASURED = [["0", "0.750", "100 %"], ["1.5", "-0.428", "81 %"]]


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_stands_in_its_page_with_date_machine_and_tolerance(name: str) -> None:
    text = text_of(name, (COURSE / BLOCKS[name].page).read_text(encoding="utf-8"))
    assert len(rows_of(text)) >= 3
    assert re.search(r"Measured by `make course` on \d{4}-\d\d-\d\d, \S+, one thread, fp32", text)
    assert "it has to hold" in text


def test_a_figure_within_its_tolerance_holds_and_one_beyond_is_named() -> None:
    assert differences(BLOCK, MEASURED, MEASURED) == []
    assert differences(BLOCK, [["0", "0.765", "93 %"], ["1.5", "−0.44", "90 %"]], MEASURED) == []
    [off] = differences(BLOCK, [["0", "0.750", "100 %"], ["1.5", "0.428", "81 %"]], MEASURED)
    assert off == "1.5, score: the page says 0.428, -0.428 was measured"
    assert differences(BLOCK, MEASURED[:1], MEASURED) == ["the rows are others"]
    assert differences(BLOCK, [["0", "", "100 %"], MEASURED[1]], MEASURED)


def test_words_have_to_be_those_that_were_measured() -> None:
    block = Block(page="x.md", head=("what", "figure"), within=(None, 0.1), measure=lambda: [], relative=True)
    assert differences(block, [["verdict", "learned"]], [["verdict", "learned"]]) == []
    [off] = differences(block, [["verdict", "learned"]], [["verdict", "inconclusive"]])
    assert off == "verdict, figure: the page says learned, inconclusive was measured"


def test_a_tolerance_may_be_a_share_of_what_was_measured() -> None:
    block = Block(page="x.md", head=("what", "figure"), within=(None, 0.1), measure=lambda: [], relative=True)
    assert differences(block, [["loss", "0.229 → 0.110"]], [["loss", "0.229 → 0.107"]]) == []
    assert differences(block, [["loss", "0.229 → 0.150"]], [["loss", "0.229 → 0.107"]])
    assert "within figure 10%" in as_text(block, [["loss", "0.2"]])


def test_what_is_written_is_read_back_and_holds() -> None:
    text = as_text(BLOCK, MEASURED)
    assert rows_of(text) == MEASURED
    assert "within score 0.02, objects 10" in text


def test_the_counted_blocks_are_as_they_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "part_of_today", lambda num: 1)
    assert course.main(["--part"]) == 0
