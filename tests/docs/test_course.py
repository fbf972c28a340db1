"""The course: every topic has its page, and what it quotes is what the program takes."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from detour.labs.index import LABS
from detour.verbs.doctor.table import RULES
from tests.docs.pages import ROOT, Wrong, command_lines, links, name_of, parse

COURSE = ROOT / "docs" / "course"
PAGES = sorted(COURSE.glob("[0-9]*.md"))

# What a reader is promised: topic, page, heading of it.
TOPICS = (
    ("what LoRA is", "01-what-lora-is.md", "What LoRA is"),
    ("why a low rank suffices, measured", "01-what-lora-is.md", "Why a low rank suffices"),
    ("what a diffusion model is made of", "02-where-it-goes.md", "A diffusion model in a minute"),
    ("which layers there are", "02-where-it-goes.md", "The layers"),
    ("which layers matter", "02-where-it-goes.md", "Which layers matter"),
    ("style against subject", "03-style-and-subject.md", "Style against subject"),
    ("captions of a style", "03-style-and-subject.md", "Why a caption must not name the style"),
    ("rank", "04-rank-and-alpha.md", "Rank"),
    ("alpha", "04-rank-and-alpha.md", "Alpha"),
    ("merging", "05-merging-and-stacking.md", "Merging"),
    ("stacking", "05-merging-and-stacking.md", "Stacking"),
    ("QLoRA", "06-qlora-and-dora.md", "QLoRA"),
    ("DoRA", "06-qlora-and-dora.md", "DoRA"),
    ("reading a report", "07-reading-a-report.md", "Reading a report"),
    ("common mistakes and the fix", "08-mistakes.md", "Common mistakes, and the fix"),
    ("misconceptions", "09-misconceptions.md", "Misconceptions, each with the experiment that settles it"),
    (
        "flow models",
        "10-from-noise-to-velocity.md",
        "From ε to velocity: what changes and what does not",
    ),
    ("scenario questions", "11-questions.md", "Eight questions"),
    ("the family tree", "12-family-tree.md", "The family tree, and what each step changed for adapters"),
    ("the card and the hub", "13-sharing.md", "4. The card"),
    ("stories of serving", "14-stories.md", "Serving"),
    ("stories of safety", "14-stories.md", "Safety"),
    ("economics", "15-what-it-costs.md", "Four lines"),
)


@pytest.mark.parametrize(
    ("page", "heading"), [topic[1:] for topic in TOPICS], ids=[topic[0] for topic in TOPICS]
)
def test_every_topic_has_its_page_and_heading(page: str, heading: str) -> None:
    headings = re.findall(r"^#+ (.+)$", (COURSE / page).read_text(), re.MULTILINE)
    assert heading in headings


def test_the_contents_list_every_page_in_its_order() -> None:
    assert [link for link in links(COURSE / "README.md") if link[:1].isdigit()] == [
        page.name for page in PAGES
    ]


def test_every_page_leads_to_the_next() -> None:
    for page, following in pairwise(PAGES):
        assert "next: [" in page.read_text()
        assert following.name in links(page)[-1]


@pytest.mark.parametrize("page", [COURSE / "README.md", *PAGES], ids=name_of)
def test_every_quoted_command_is_one_that_the_program_takes(page: Path) -> None:
    wrong = []
    for line in command_lines(page):
        if re.match(r"detour( |$)", line):
            try:
                parse(line)
            except Wrong as error:
                wrong.append(f"{line}: {error.why}")
    assert wrong == []


@pytest.mark.parametrize(
    "line",
    [
        "detour nosuch",
        "detour show --norms",
        "detour show a.safetensors --nosuch",
        "detour show a.safetensors b.safetensors",
        "detour generate cat --scheduler nosuch",
        "detour generate cat --steps many",
        "detour labs nosuch 1",
        "detour compose a:1 --rank 0",
    ],
)
def test_a_stale_command_is_found(line: str) -> None:
    with pytest.raises(Wrong):
        parse(line)


def test_every_rule_that_the_mistakes_name_is_a_rule_of_the_doctor() -> None:
    named = set()
    for row in re.findall(
        r"^\|[^|]+\|([^|]+)\|[^|]+\|$", (COURSE / "08-mistakes.md").read_text(), re.MULTILINE
    ):
        named |= set(re.findall(r"`([^`]+)`", row))
    assert len(named) > 20
    assert named <= {rule.name for rule in RULES}


def test_every_page_names_a_lab_that_there_is() -> None:
    for page in PAGES[:-1]:
        text = page.read_text()
        by_hand = text[text.index("**By hand:**") :]
        numbers = {int(number) for number in re.findall(r"(?:\blab\s|labs open )(\d+)", by_hand)}
        assert numbers, f"{page.name} names no lab"
        assert numbers <= {lab.number for lab in LABS}, page.name


def test_there_are_eight_questions_with_folded_answers() -> None:
    text = (COURSE / "11-questions.md").read_text()
    assert len(re.findall(r"^## \d", text, re.MULTILINE)) == 8
    assert text.count("<details><summary>Answer</summary>\n\n") == text.count("\n\n</details>") == 8


def test_every_story_has_a_folded_answer_with_a_command_or_the_lab_that_shows_the_fault() -> None:
    text = (COURSE / "14-stories.md").read_text()
    stories = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    assert len(stories) == 10
    for story in stories:
        answer = story.partition("<details><summary>Answer</summary>\n\n")[2].partition("</details>")[0]
        assert re.search(r"`detour [^`]+`", answer), story.splitlines()[0]


def test_every_misconception_has_an_experiment_and_a_plain_answer() -> None:
    text = (COURSE / "09-misconceptions.md").read_text()
    for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        assert re.search(r"\*\*[^*]+\*\*", body), f"{title}: no answer"
        assert re.search(r"detour |python -m |The same command|log\.md", body), f"{title}: no experiment"
        assert re.search(r"\d", body), f"{title}: no figure"


def test_every_setting_beside_pefts_is_one_that_both_have() -> None:
    from dataclasses import fields

    from peft import LoraConfig

    from detour.specs import AdapterSpec

    text = (COURSE / "06-qlora-and-dora.md").read_text()
    part = text[text.index("## Beside PEFT's") :]
    pairs = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", part, re.MULTILINE)
    assert len(pairs) == 7
    theirs = {field.name: field.default for field in fields(LoraConfig)}
    assert {peft for peft, _ in pairs} <= theirs.keys()
    assert {ours for _, ours in pairs} <= AdapterSpec.model_fields.keys()
    assert theirs["lora_alpha"] == 8
    ours = {
        name
        for cell in re.findall(r"^\| ([^|]+) \|", part, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", cell)
    }
    assert AdapterSpec.model_fields.keys() <= ours | {second for _, second in pairs}
    alone = part[part.index("| only in PEFT |") :]
    named = {
        name
        for cell in re.findall(r"^\| ([^|]+) \|", alone, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", cell)
    }
    assert len(named) == 9
    assert named <= theirs.keys()
