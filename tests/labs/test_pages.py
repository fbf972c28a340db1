import re
from pathlib import Path
from typing import Any

import pytest

from detour.errors import ConfigError, DetourError
from detour.labs.execution import Executed
from detour.labs.index import lab_of
from detour.labs.needs import CardNeed
from detour.labs.pages import MAX_PAGE_BYTES, Measured, index_page, measured_labs, page_of, write_measured

RAN = Executed(
    lab=9, seconds=20.0, core_seconds=8.4, peak_bytes=600 << 20, results={"jump": True}, error=None,
    message=None, feedback="",
)  # fmt: skip
NEED = CardNeed(card="T4, 16 GB, no bf16", bytes=4 << 30, words="drawing, fp16 weights")
MEASURED = Measured(core_seconds=8.4, peak_bytes=600 << 20, shared=True, need=NEED)


def notebook_with(*, alt: str | None, size: int = 40) -> Any:
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbconvert")
    v4 = nbformat.v4
    metadata = {"image/png": {"alt": alt}} if alt is not None else {}
    picture = v4.new_output("display_data", {"image/png": "A" * size}, metadata=metadata)
    cells = [v4.new_markdown_cell("# Noise"), v4.new_code_cell("1 + 1", outputs=[picture])]
    return v4.new_notebook(cells=cells)


def test_a_page_is_self_contained_and_says_what_it_took() -> None:
    page = page_of(lab_of(9), notebook_with(alt="Noise over a scene."), RAN, base="pocket")
    assert 'alt="Noise over a scene."' in page
    assert "in 8 s of one CPU core" in page
    assert "0.6 GiB" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "<script" not in page


@pytest.mark.parametrize("alt", [None, "short"])
def test_a_picture_without_words_is_refused(alt: str | None) -> None:
    with pytest.raises(DetourError, match="no alt text"):
        page_of(lab_of(9), notebook_with(alt=alt), RAN, base="pocket")


def test_a_page_that_is_too_large_is_refused() -> None:
    large = notebook_with(alt="A very large picture.", size=MAX_PAGE_BYTES)
    with pytest.raises(DetourError, match="are allowed"):
        page_of(lab_of(9), large, RAN, base="pocket")


def test_the_index_keeps_what_was_rendered_before(tmp_path: Path) -> None:
    write_measured(tmp_path, {9: MEASURED})
    settings = Measured(core_seconds=2.0, peak_bytes=1 << 30, shared=False, need=None)
    write_measured(tmp_path, measured_labs(tmp_path) | {1: settings})
    index = (tmp_path / "README.md").read_text()
    assert "| 9. [Noise and back](lab09.html) |" in index
    assert "| at most 8 s, 0.6 GiB | 4.0 GiB: drawing, fp16 weights |" in index
    assert "lab 1 ran alone" in index
    assert "| 2 s, 1.0 GiB | reads settings alone |" in index
    assert "10 s together" in index
    assert list(measured_labs(tmp_path)) == [1, 9]
    assert index == index_page({1: settings, 9: MEASURED})


def test_a_kernel_that_waited_for_a_core_says_that_the_machine_was_shared() -> None:
    assert RAN.shared
    assert not RAN.model_copy(update={"seconds": 9.5}).shared


def test_figures_that_were_edited_are_refused(tmp_path: Path) -> None:
    (tmp_path / "measured.json").write_text('{"9": {"core_seconds": "quick"}}')
    with pytest.raises(ConfigError, match="not as it was written"):
        measured_labs(tmp_path)


def test_outputs_with_columns_are_told_from_sentences() -> None:
    v4 = pytest.importorskip("nbformat").v4
    notebook = notebook_with(alt="Noise over a scene.")
    said = [
        "You expected: 5\nMeasured:     36.77 of 255",
        "passed. Well done.\nkind      kept\ncat        17%\nYou expected: 5\nMeasured:     17% of 30\n",
        "passed. Well done.",
    ]
    notebook.cells += [
        v4.new_code_cell("1", outputs=[v4.new_output("stream", name="stdout", text=text)]) for text in said
    ]
    page = page_of(lab_of(9), notebook, RAN, base="pocket")
    assert page.count('<pre class="columns">') == 1
    table = '<span class="sentence">passed. Well done.\n</span>kind      kept\ncat        17%\n'
    below = '<span class="sentence">You expected: 5\n</span><span class="sentence">Measured:     17% of 30\n</span>'
    assert f'<pre class="columns">{table}{below}</pre>' in page
    assert ".sentence { display: block; white-space: pre-wrap; }" in page
    assert "pre.columns { white-space: pre; overflow-x: auto; }" in page


def test_an_answer_is_folded_away_below_what_is_handed_out() -> None:
    from detour.labs.index import lab_of
    from detour.labs.pages import tasks_of, with_folded_solutions

    tasks = tasks_of(lab_of(9))
    assert any("# TODO: Return √ᾱ" in source for source in tasks.values())
    [cell] = [cell for cell, source in tasks.items() if "def jump" in source]
    body = f'<div id="cell-id={cell}"><div class="input">ANSWER</div><div class="output_wrapper">passed</div></div>'
    page = with_folded_solutions(body, lab_of(9), {cell: tasks[cell]})
    task, fold, rest = page.index("TODO"), page.index("<details"), page.index("</details>")
    assert task < fold < page.index("ANSWER") < rest < page.index("passed")
    with pytest.raises(DetourError, match="no cell-99 with an answer"):
        with_folded_solutions(body, lab_of(9), {"cell-99": "x = None"})
