"""``--policy`` of studies and comparisons: what a policy withholds is in no file, and changes no figure."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detour.adapter_files.writing import write_adapter
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.cli.main import run
from detour.errors import ConfigError, Withheld
from detour.generation.engine import PictureEngine
from detour.specs import load_run_spec
from detour.specs.generation import PictureSpec
from detour.specs.studies import AxisSpec, CompareSpec, StudySpec
from detour.verbs.studies import result as study_result
from detour.verbs.studies.blocks import study_blocks
from detour.verbs.studies.compare import BASE, TRUE, compare_runs
from detour.verbs.studies.engine import Cell, CellStore
from detour.verbs.studies.guidance import study_guidance
from detour.verbs.studies.schedulers import study_schedulers
from detour.verbs.studies.timesteps import study_timesteps
from tests.adapter_files.examples import SD1, adapter_for
from tests.safety.policies import RULES, TERMS, rendered, write_pictures, write_policy
from tests.verbs.photos import make_photos, quick_flags

GREY = 128


@pytest.fixture(autouse=True)
def without_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the figure takes longer than these studies."""
    monkeypatch.setattr(study_result, "draw_panels", lambda *_, **__: None)


@pytest.fixture(scope="module")
def lora(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    layers = select(adaptable_layers(open_base(str(tiny_base)).meta_network()), "attn")
    path = tmp_path_factory.mktemp("loras") / "style.safetensors"
    return str(write_adapter(path, adapter_for(layers, seed=1), family=SD1))


def study(base: str, policy: Path | None, *prompts: str, lora: str | None = None) -> StudySpec:
    return StudySpec(
        base=base, prompts=prompts or ("a red house", "a dog"), seeds=1, device="cpu", batch=2, lora=lora,
        policy=policy and str(policy), picture=PictureSpec(steps=3),
    )  # fmt: skip


def comparison(base: str, policy: Path | None, photos: Path, *prompts: str) -> CompareSpec:
    values = quick_flags(base, photos) | {
        "train.steps": 2,
        "evaluate.prompts": prompts,
        "validate.num_timesteps": 1,
    }
    axes = (AxisSpec(key="adapter.rank", values=(1, 2)),)
    return CompareSpec(
        run=load_run_spec(flags=values), axes=axes, seeds=1, batch=2, policy=policy and str(policy)
    )


def keeping_out(folder: Path, picture: np.ndarray) -> Path:
    """A policy that withholds copies of one picture."""
    write_pictures(folder / "works", [picture, rendered("house", 3), rendered("duck", 5)])
    return write_policy(folder, copies={"references": "works", "margin": 0.0})


def cells_of(folder: Path) -> dict[str, Cell]:
    found = [Cell.model_validate_json(line) for line in (folder / "cells.jsonl").read_text().splitlines()]
    return {cell.variant: cell for cell in found}


def figures_of(folder: Path) -> dict[str, Any]:
    unlike = ("seconds", "seconds_a_step")
    return {
        name: {figure: values for figure, values in cell.samples.items() if figure not in unlike}
        for name, cell in cells_of(folder).items()
    }


def test_a_refused_prompt_is_refused_before_anything_is_drawn(
    judged: str, lora: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(PictureEngine, "load", load)
    policy = write_policy(tmp_path, terms=TERMS, rewrite=RULES)
    asked = study(judged, policy, "a house", "a cr0wn", lora=lora)
    for verb in (study_guidance, study_schedulers, study_timesteps, study_blocks):
        with pytest.raises(Withheld, match=r"nothing was drawn.*'a cr0wn' \(terms\.crowns\)"):
            verb(asked, out=tmp_path / "study")  # type: ignore[operator]
    photos = make_photos(tmp_path / "photos")
    with pytest.raises(Withheld, match=r"nothing was drawn.*'a cr0wn'"):
        compare_runs(comparison(judged, policy, photos, "a house", "a cr0wn"), out=tmp_path / "compared")
    assert {path.name for path in tmp_path.iterdir()} == {"policy.toml", "photos"}


def test_a_prompt_that_the_policy_changes_is_drawn_and_named_as_changed(judged: str, tmp_path: Path) -> None:
    policy = write_policy(tmp_path, terms=TERMS, rewrite=RULES)
    study_guidance(study(judged, policy, "a bowler hat", "a dog"), out=tmp_path / "a", scales=(1.0, 3.0))
    study_guidance(study(judged, None, "a cup", "a dog"), out=tmp_path / "b", scales=(1.0, 3.0))
    assert figures_of(tmp_path / "a") == figures_of(tmp_path / "b")
    with pytest.raises(ConfigError, match="policy"):  # cells of another policy are never mixed in
        study_guidance(study(judged, None, "a cup", "a dog"), out=tmp_path / "a", scales=(1.0, 3.0))


def test_a_withheld_picture_of_a_study_is_grey_alone_and_figures_are_of_what_was_drawn(
    judged: str, lora: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study_blocks(study(judged, None, lora=lora), out=tmp_path / "plain")
    plain = CellStore(tmp_path / "plain", [])
    policy = keeping_out(tmp_path, plain.pictures("full", 0)[1])
    out = tmp_path / "screened"
    found = study_blocks(study(judged, policy, lora=lora), out=out)
    assert cells_of(out)["full"].withheld == {1: "refuse copies"}
    assert found.withheld["refuse copies"] >= 1
    kept = CellStore(out, [])
    for name, cell in cells_of(out).items():
        grey = [bool((one == GREY).all()) for one in kept.pictures(name, 0)]
        assert grey == [index in cell.withheld for index in range(2)], name
    assert np.array_equal(kept.pictures("full", 0)[0], plain.pictures("full", 0)[0])
    assert figures_of(out) == figures_of(tmp_path / "plain")

    lines = (out / "cells.jsonl").read_text().splitlines(keepends=True)
    (out / "cells.jsonl").write_text("".join(lines[:3]))  # a stop: what was withheld is in memory no more
    study_blocks(study(judged, policy, lora=lora), out=out)
    assert figures_of(out) == figures_of(tmp_path / "plain")

    arguments = [
        "blocks",
        lora,
        "--prompt",
        "a red house",
        "--prompt",
        "a dog",
        "--seeds",
        "1",
        "--base",
        judged,
    ]
    with pytest.raises(SystemExit) as stopped:
        run(
            [
                *arguments,
                "--batch",
                "2",
                "--steps",
                "3",
                "--device",
                "cpu",
                "--policy",
                str(policy),
                "--out",
                str(out),
            ]
        )
    assert stopped.value.code == 19
    assert "refuse copies" in capsys.readouterr().err


def test_a_withheld_picture_of_a_comparison_is_grey_alone(judged: str, tmp_path: Path) -> None:
    photos, prompts = make_photos(tmp_path / "photos"), ("a red house", "a dog")
    compare_runs(comparison(judged, None, photos, *prompts), out=tmp_path / "plain")
    plain = CellStore(tmp_path / "plain", [])
    policy = keeping_out(tmp_path, plain.pictures(BASE, 3)[0])
    out = tmp_path / "screened"
    compare_runs(comparison(judged, policy, photos, *prompts), out=out)
    assert cells_of(out)[BASE].withheld == {0: "refuse copies"}
    assert (CellStore(out, []).pictures(BASE, 3)[0] == GREY).all()
    assert np.array_equal(CellStore(out, []).pictures(BASE, 3)[1], plain.pictures(BASE, 3)[1])
    assert TRUE not in cells_of(out)
    assert figures_of(out) == figures_of(tmp_path / "plain")


def test_a_comparison_refuses_a_policy_that_steers(judged: str, tmp_path: Path) -> None:
    policy = write_policy(tmp_path, latent={"concept": "a crown", "strength": "medium"})
    photos = make_photos(tmp_path / "photos")
    with pytest.raises(ConfigError, match="latent"):
        compare_runs(comparison(judged, policy, photos, "a house"), out=tmp_path / "compared")
