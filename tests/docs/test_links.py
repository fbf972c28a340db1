"""Links, anchors and quoted modules of the docs lead somewhere."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, anchor_of, anchors, command_lines, dead, links, name_of, pages

RENDERED = sorted((ROOT / "docs").rglob("*.html"))


@pytest.mark.parametrize("page", [*pages(), *RENDERED], ids=name_of)
def test_every_relative_link_resolves(page: Path) -> None:
    assert [why for target in links(page) if (why := dead(page, target))] == []


def test_a_link_to_nothing_is_called_dead(tmp_path: Path) -> None:
    page = ROOT / "README.md"
    assert dead(page, "docs/nowhere.md") is not None
    assert dead(page, "docs/studies.md#no-such-heading") is not None
    assert dead(page, "#no-such-heading") is not None
    assert dead(page, "docs/studies.md#guidance") is None
    assert dead(page, "https://example.org/nowhere") is None


def test_links_in_code_are_not_links_and_pictures_are(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`[a](b.md)`\n\n```\n[c](d.md)\n```\n\n[e [f]](g.md) ![h](i.png)\n[![j](k.png)](l.md)\n")
    assert links(page) == ["g.md", "i.png", "l.md"]


def test_anchors_are_githubs(tmp_path: Path) -> None:
    assert anchor_of("`to_q`, `to_k` and **more**: what's *it*?") == "to_q-to_k-and-more-whats-it"
    assert anchor_of("2026-11-22 · what it keeps") == "2026-11-22--what-it-keeps"
    page = tmp_path / "page.md"
    page.write_text("# Same\n\n## Same\n\n```\n# not a heading\n```\n")
    assert anchors(page) == {"same", "same-1"}


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_module_and_target_that_is_quoted_exists(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in command_lines(page):
        if module := re.match(r"python -m ((?:detour|benchmarks)[\w.]*)", line):
            assert find_spec(module[1]), f"{name_of(page)}: there is no module {module[1]}"
        if target := re.match(r"make ([a-z-]+)(?:$|\s)", line):
            assert target[1] in targets, f"{name_of(page)}: there is no `make {target[1]}`"


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_file_of_the_repository_that_is_quoted_exists(page: Path) -> None:
    for quoted in command_lines(page):
        if re.fullmatch(r"(?:src|tests|docs|benchmarks)/[\w./-]+\.(?:py|md|json|html)", quoted):
            assert (ROOT / quoted).exists(), f"{name_of(page)}: there is no {quoted}"
