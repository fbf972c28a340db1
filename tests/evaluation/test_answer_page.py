from detour.evaluation.answer_page import answer_rows, subject_rows
from detour.evaluation.answers import Answers, Competence, FigureAnswer, ShareOfWay

READ = Competence(pictures=16, margin=5.0, chance=0.1, p_value=0.001, shown=True)
UNREAD = READ.model_copy(update={"p_value": 0.4, "shown": False})
UNTESTED = READ.model_copy(update={"pictures": 3, "p_value": None, "shown": False})


def figure(**changes: object) -> FigureAnswer:
    kept = FigureAnswer(
        answer="kept", loss=-0.2, low=-0.4, high=0.1, p_lost=1.0, prompts=16, needed=None, because="",
        on_base=READ, on_references=READ,
    )  # fmt: skip
    return kept.model_copy(update=changes)


def test_a_figure_that_its_judge_cannot_read_is_struck_out_with_the_reason() -> None:
    unknown = figure(answer="unknown", on_references=UNREAD, because="your pictures read like shuffled ones")
    found = answer_rows(
        Answers(
            figures={
                "prompt": figure(),
                "place": unknown,
                "colour": figure(on_base=UNREAD),
                "object": figure(answer="unknown", on_references=UNTESTED),
                "lost": figure(answer="lost", loss=0.5, high=0.7),
            },
            way=None,
            subject=None,
        )
    )
    rows = {row.name: row for row in found}
    assert [name for name, row in rows.items() if row.used] == ["prompt", "lost"]
    assert "no better than shuffled" in rows["place"].read
    assert "your pictures read like shuffled ones" in rows["place"].read
    assert "could not be tested" in rows["object"].read
    assert rows["lost"].loss == "50%, at most 70%"
    assert rows["prompt"].loss == "none (20% more), at most 10%"
    assert answer_rows(None) == []


def test_a_loss_against_the_base_is_shown_where_the_references_allow_it() -> None:
    one = figure(against_base=0.35, p_base=0.001, read={"adapter": 0.65, "base": 1.0, "references": 0.95})
    (row,) = answer_rows(Answers(figures={"object": one}, way=None, subject=None))
    assert (row.loss, row.against_base, row.found) == (
        "none (20% more), at most 10%",
        "35% (p 0.001)",
        "65% / 100% / 95%",
    )
    (old,) = answer_rows(Answers(figures={"object": figure()}, way=None, subject=None))
    assert (old.against_base, old.found) == ("–", "–")


def test_a_way_without_limits_has_no_brackets() -> None:
    way = ShareOfWay(share=0.81, low=None, high=None, p_value=0.2)
    ((_, said),) = subject_rows(Answers(figures={}, way=way, subject=None))
    assert said == "81%; chance alone would do this in 200 of 1,000 cases"


def test_one_meaning_of_the_way_in_words() -> None:
    way = ShareOfWay(share=0.68, low=0.57, high=0.79, p_value=0.001)
    rows = subject_rows(Answers(figures={}, way=way, subject=None))
    assert rows == [
        (
            "of the way from the base's pictures to yours",
            "68% (57% to 79%); chance alone would do this in 1 of 1,000 cases",
        )
    ]
