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
    assert rows["prompt"].loss == "0%, at most 10%"
    assert answer_rows(None) == []


def test_one_meaning_of_the_way_in_words() -> None:
    way = ShareOfWay(share=0.68, low=0.57, high=0.79, p_value=0.001)
    rows = subject_rows(Answers(figures={}, way=way, subject=None))
    assert rows == [
        (
            "of the way from the base's pictures to yours",
            "68% (57% to 79%); chance alone would do this in 1 of 1,000 cases",
        )
    ]
