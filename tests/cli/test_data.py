"""What ``detour data check`` shows of its report."""

import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from detour.cli.main import cli


def test_data_check_counts_words_tells_causes_and_fixes_and_counts_class_pictures_apart(
    tmp_path: Path,
) -> None:
    things = ["red cup", "blue cup", "red hat", "old cup", "cup and hat", "tree"]
    for number, thing in enumerate(things):
        folder = tmp_path / ("reg/1_thing" if number == 5 else "img/1_sks thing")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {thing}")
    (tmp_path / "more").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "more" / "x.png")
    given = ["data", "check", str(tmp_path)]
    shown = CliRunner().invoke(cli, given)
    assert shown.exit_code == 0, shown.output
    assert "words in most captions: cup 4, hat 2, red 2, blue 1, old 1" in shown.output
    assert "captions: 5 of 5, 5 different, and 1 class picture; 0 pictures would be held out" in shown.output
    assert (
        "warning: 1 picture is not read: 1 in more/\n  fix: read every folder below with --recursive"
        in shown.output
    )
    report = json.loads(CliRunner().invoke(cli, [*given, "--json"]).output)
    assert (report["pictures"], report["class_pictures"], report["held_out"]) == (5, 1, 0)
    assert all({"severity", "kind", "cause", "fix"} <= finding.keys() for finding in report["findings"])
