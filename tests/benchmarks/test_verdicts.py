from pathlib import Path

from benchmarks.verdicts import KINDS, draw_data, table


def test_what_a_copying_run_is_shown_is_one_picture_under_many_captions(tmp_path: Path) -> None:
    draw_data(tmp_path, KINDS["copies"], seed=3)
    pictures = {path.read_bytes() for path in tmp_path.glob("*.png")}
    captions = {path.read_text() for path in tmp_path.glob("*.txt")}
    assert len(pictures) == KINDS["copies"].distinct == 1
    assert len(captions) > 20


def test_the_table_counts_verdicts_of_each_kind() -> None:
    lines = [{"kind": "good", "verdict": verdict} for verdict in ("learned", "learned", "overfit")]
    rows = table([*lines, {"kind": "rate 0", "verdict": "no_effect"}]).splitlines()
    assert rows[0].endswith("| learned | no_effect | overfit |")
    assert rows[2] == "| good | `learned` | 2 of 3 | 2 |  | 1 |"
    assert rows[3] == "| rate 0 | `no_effect` | 1 of 1 |  | 1 |  |"
