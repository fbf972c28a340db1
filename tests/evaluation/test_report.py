import re
from html.parser import HTMLParser
from pathlib import Path

from detour.evaluation.report import MAX_PAIRS, read_metrics, render_report, write_report
from tests.evaluation.figures import UNMEASURED, learned_proof
from tests.evaluation.stories import pair, story


class Elements(HTMLParser):
    """Every start tag with its attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_verdict_comes_first_in_words() -> None:
    text = Elements(render_report(story())).text
    body = text[text.index("}\n") :] if "}\n" in text else text
    assert (
        body.index("It learned, and nothing was shown to be lost.")
        < body.index("New prompts")
        < body.index("Settings")
    )


def test_markup_in_captions_reasons_and_names_is_shown_and_not_run() -> None:
    evil = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
    proof = learned_proof().model_copy(update={"reasons": (evil,)})
    page = render_report(
        story(
            held_out_pairs=[pair(evil)], proof_pairs=[pair(evil)], proof=proof, name=evil, facts={evil: evil}
        )
    )
    elements = Elements(page)
    assert not [tag for tag, _ in elements.tags if tag == "script"]
    assert not [attrs for _, attrs in elements.tags if any(name.startswith("on") for name in attrs)]
    assert all((attrs["src"] or "").startswith("data:") for tag, attrs in elements.tags if tag == "img")
    assert "<script>alert('x')</script>" in elements.text


def test_the_page_needs_nothing_but_itself() -> None:
    page = render_report(story())
    links = [
        value for _, attrs in Elements(page).tags for name, value in attrs.items() if name in ("src", "href")
    ]
    assert links
    assert all(value is not None and value.startswith("data:image/jpeg;base64,") for value in links)
    assert "@import" not in page
    assert "url(" not in page


def test_it_stays_below_five_megabytes_with_many_large_pictures(tmp_path: Path) -> None:
    large = pair("a noisy picture", side=512)  # noise is the worst that JPEG can get
    write_report(
        tmp_path / "report.html", story(held_out_pairs=[large] * (MAX_PAIRS + 30), proof_pairs=[large] * 4)
    )
    assert (tmp_path / "report.html").stat().st_size < 5_000_000
    assert "30 more were drawn" in (tmp_path / "report.html").read_text()


def test_every_picture_and_chart_has_words_for_those_who_do_not_see_it() -> None:
    elements = Elements(render_report(story()))
    assert all(attrs.get("alt") for tag, attrs in elements.tags if tag == "img")
    assert all(attrs.get("aria-label") for tag, attrs in elements.tags if tag == "svg")


def test_pairs_show_base_adapter_and_true_style_with_prompt_and_seed() -> None:
    elements = Elements(render_report(story()))
    figures = [tag for tag, _ in elements.tags].count("figure")
    assert figures == 3
    assert [tag for tag, _ in elements.tags].count("img") == 2 * 3 + 2
    assert "a blue cat in the city" in elements.text
    assert "seed 4" in elements.text


def test_no_path_of_the_machine_stands_in_it() -> None:
    page = render_report(story())
    assert "/home/ada" not in page
    assert "photos" in page


def test_a_run_without_scores_or_curves_has_a_page_too() -> None:
    proof = learned_proof().model_copy(update={"held_out": UNMEASURED, "gradients": None})
    empty = story(proof=proof, held_out_pairs=[], metrics=read_metrics(Path("nowhere")))
    page = render_report(empty)
    assert "Scores on new prompts" not in page
    assert "<svg" not in page


def test_light_and_dark_and_narrow_screens_are_provided_for() -> None:
    page = render_report(story())
    assert "prefers-color-scheme: dark" in page
    assert re.search(r'name="viewport" content="width=device-width', page)


def test_metrics_skip_a_half_written_line_and_what_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": NaN}\n[1]\n'
        '{"step": 2, "val_loss": 0.4}\n{"step": 3, "lo'
    )
    metrics = read_metrics(path)
    assert list(metrics.loss) == [(1.0, 0.5)]
    assert list(metrics.validation) == [(2.0, 0.4)]
