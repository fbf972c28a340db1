"""Comparisons on a base with random weights: what is compared is right, whatever the pictures show."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from detour.adapters.arithmetic import count
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.cli.compare import listed
from detour.cli.main import cli
from detour.errors import ConfigError, Interrupted
from detour.evaluation.proof_pictures import ProofRequest
from detour.specs import load_run_spec
from detour.specs.studies import AxisSpec, CompareSpec
from detour.verbs.progress import Progress, silent
from detour.verbs.studies import result, trained_cell
from detour.verbs.studies.compare import BASE, compare_runs
from detour.verbs.studies.compare_words import finding_of, panels_of
from detour.verbs.studies.engine import Cell, CellStore, Experiment, Variant
from detour.verbs.studies.question_set import make_question_set
from detour.verbs.studies.table import tabulate
from detour.verbs.studies.variants import make_candidates
from detour.verbs.train import run as train_recipe
from detour.verbs.train.run import train_adapter
from detour.verbs.train.run_plan import plan_run
from tests.verbs.photos import make_photos, quick_flags


@pytest.fixture(autouse=True)
def without_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the shared comparison below draws its figure: drawing takes longer than these runs."""
    monkeypatch.setattr(result, "draw_panels", lambda *_, **__: None)


RANKS = AxisSpec(key="adapter.rank", values=(1, 2))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("compare") / "photos")


def spec_of(base: str, photos: Path, *axes: AxisSpec, seeds: int = 1, **flags: Any) -> CompareSpec:
    values = quick_flags(base, photos) | {
        "train.steps": 3,
        "evaluate.prompts": ("a red house", "a dog"),
        "validate.num_timesteps": 1,
    }
    values |= {key.replace("__", "."): value for key, value in flags.items()}
    return CompareSpec(run=load_run_spec(flags=values), axes=axes or (RANKS,), seeds=seeds, batch=2)


def cells_of(folder: Path) -> dict[tuple[str, int], Cell]:
    lines = (folder / "cells.jsonl").read_text().splitlines()
    cells = [Cell.model_validate_json(line) for line in lines]
    return {(cell.variant, cell.seed): cell for cell in cells}


@pytest.fixture(scope="module")
def compared(judged: str, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks at two seeds; read-only by agreement."""
    out = tmp_path_factory.mktemp("compared") / "ranks"
    compare_runs(spec_of(judged, photos, seeds=2), out=out)
    return out


def test_a_cell_is_the_run_that_train_makes(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = compared / "runs" / "rank-2-s4"
    monkeypatch.setattr(train_recipe, "_prove", lambda *_: None)
    spec = load_run_spec(config=folder / "resolved.toml")
    assert (spec.seed, spec.adapter.rank) == (4, 2)
    again = train_adapter(spec, runs=tmp_path)
    assert again.adapter_file.read_bytes() == (folder / "rank-2.safetensors").read_bytes()
    assert cells_of(compared)["rank-2", 4].samples["val_loss"] == (again.val_loss,)


def test_the_folder_holds_what_every_study_leaves_and_all_figures(compared: Path) -> None:
    names = {path.name for path in compared.iterdir()}
    assert names >= {"settings.json", "table.json", "table.csv", "figure.png", "sheet.png", "finding.md"}
    cells = cells_of(compared)
    assert {seed for _, seed in cells} == {3, 4}
    figures = cells["rank-1", 3].samples
    assert set(figures) == {
        "style_distance", "style_ratio", "clip", "pixels", "parameters", "seconds_a_step", "file_kib", "val_loss",
        "diverged",
    }  # fmt: skip
    assert all(len(values) == 1 for values in figures.values()), "a trained run is one sample"
    base = cells["base", 3].samples
    assert figures["style_ratio"][0] == pytest.approx(
        figures["style_distance"][0] / base["style_distance"][0]
    )
    store = CellStore(compared, [])
    moved = np.abs(store.pictures("rank-1", 3).astype(int) - store.pictures(BASE, 3).astype(int)).mean()
    assert figures["pixels"][0] == pytest.approx(moved)
    file = compared / "runs" / "rank-1-s3" / "rank-1.safetensors"
    assert figures["file_kib"][0] == file.stat().st_size / 1024


def test_all_cells_draw_the_same_noise_and_the_base_is_as_it_was(compared: Path) -> None:
    store = CellStore(compared, [])
    assert np.array_equal(store.pictures(BASE, 3), store.pictures(BASE, 4))


def test_a_comparison_that_is_stopped_goes_on_in_the_middle_of_a_run(
    judged: str, photos: Path, compared: Path, tmp_path: Path
) -> None:
    def stop(report: Progress) -> None:
        if report.stage == "training rank-2, seed 3" and report.done == 3:
            raise KeyboardInterrupt

    out = tmp_path / "x"
    with pytest.raises(KeyboardInterrupt):
        compare_runs(spec_of(judged, photos), out=out, progress=stop)
    assert ("rank-1", 3) in cells_of(out)
    reports: list[Progress] = []
    compare_runs(spec_of(judged, photos), out=out, progress=reports.append)
    steps = [report.done for report in reports if report.stage.startswith("training")]
    assert steps == [3], "two of three steps stood in a checkpoint"
    same = Path("runs") / "rank-2-s3" / "rank-2.safetensors"
    assert (out / same).read_bytes() == (compared / same).read_bytes()

    whole = (out / "cells.jsonl").read_text().splitlines()
    (out / "cells.jsonl").write_text("\n".join(whole[:-1]) + "\n")  # killed while it drew
    reports.clear()
    compare_runs(spec_of(judged, photos), out=out, progress=reports.append)
    assert not [report for report in reports if report.stage.startswith("training")]


def test_a_run_of_other_settings_is_never_gone_on_with(judged: str, photos: Path, tmp_path: Path) -> None:
    one, other = make_candidates(spec_of(judged, photos))
    workshop = trained_cell.Workshop(one.plan)
    workshop.train(one.plan, tmp_path / "run", label="one", progress=silent)
    assert trained_cell._continued(one.plan, tmp_path / "run") is None
    assert trained_cell._continued(other.plan, tmp_path / "run") is other.plan
    assert not list((tmp_path / "run").iterdir())


def test_ctrl_c_says_to_give_the_same_command_again(
    judged: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise Interrupted("stopped after step 1. Go on with: detour train --resume x")

    monkeypatch.setattr(trained_cell, "fit_run", interrupted)
    with pytest.raises(Interrupted, match="Give the same command again"):
        compare_runs(spec_of(judged, photos), out=tmp_path / "x")


def test_pictures_are_encoded_once_for_all_variants_of_a_seed(
    judged: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    load = trained_cell.load_run_material

    def counted(plan: Any, progress: Any) -> Any:
        seen.append(plan.spec.seed)
        return load(plan, progress)

    monkeypatch.setattr(trained_cell, "load_run_material", counted)
    workshop = trained_cell.Workshop(make_candidates(spec_of(judged, photos))[0].plan)
    for seed in (3, 4):
        for one in make_candidates(spec_of(judged, photos)):
            workshop._shown(one.plan.with_spec(one.plan.spec.model_copy(update={"seed": seed})), silent)
    assert seen == [3, 4]


def test_runs_that_diverge_are_named_and_left_out_and_no_judge_is_needed(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    rates = AxisSpec(key="train.optim.lr", values=(1e-3, 1e30))
    found = compare_runs(
        spec_of(str(tiny_base), photos, rates, validate__every=0, data__holdout=0.0), out=tmp_path / "x"
    )
    assert "lr-1e+30 (100% of its runs)" in found.finding
    assert set(found.table.row("lr-1e+30").figures) == {"diverged"}
    assert "No judge looked at the pictures" in found.finding
    assert found.table.row("lr-0.001").figures["pixels"].mean > 0


def test_full_weights_draw_as_their_own_unet_and_leave_the_base_alone(
    judged: str, photos: Path, tmp_path: Path
) -> None:
    methods = AxisSpec(key="adapter.method", values=("lora", "full"))
    spec = spec_of(judged, photos, methods, adapter__targets="auto")
    found = compare_runs(spec, out=tmp_path / "x")
    full = found.table.row("full").figures
    assert full["pixels"].mean > 0
    plan = next(one.plan for one in make_candidates(spec) if one.name == "full")
    workshop = trained_cell.Workshop(plan)
    requests = (ProofRequest(prompt="a red house", seed=1),)
    plain = workshop.draw(requests)
    full_pictures = workshop.draw(requests, (plan.spec, tmp_path / "x" / "runs" / "full-s3"))
    assert not np.array_equal(full_pictures, plain)
    assert np.array_equal(workshop.draw(requests), plain)
    assert full["parameters"].mean > 100 * found.table.row("lora").figures["parameters"].mean


def test_equal_parameters_raise_the_rank_of_smaller_choices(judged: str, photos: Path) -> None:
    presets = ("conv", "self-attn", "attn2.to_k,attn2.to_v")
    spec = spec_of(judged, photos, AxisSpec(key="adapter.targets", values=presets), adapter__rank=2)
    found = make_candidates(spec.model_copy(update={"equal_parameters": True}))
    layers = adaptable_layers(open_base(judged).meta_network())
    counts = [
        count(select(layers, one), int(c.settings["rank"])) for one, c in zip(presets, found, strict=True)
    ]
    assert found[0].settings["rank"] == 2
    assert counts[1] == pytest.approx(counts[0], rel=0.1)
    assert found[0].name == "conv_rank-2"
    assert all(one.plan.spec.adapter.rank == one.settings["rank"] for one in found)
    with pytest.raises(ConfigError, match="name several, e"):
        make_candidates(spec_of(judged, photos).model_copy(update={"equal_parameters": True}))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((AxisSpec(key="evaluate.steps", values=(1, 2)),), "evaluate.steps cannot differ"),
        ((AxisSpec(key="data.trigger", values=("a", "b")),), "data.trigger cannot differ"),
        ((AxisSpec(key="adapter.rank", values=(4,)),), "nothing to compare"),
        ((RANKS, RANKS), "varied twice"),
        ((AxisSpec(key="adapter.ranks", values=(1, 2)),), "Did you mean 'adapter.rank'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(
    judged: str, photos: Path, axes: tuple[AxisSpec, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_candidates(spec_of(judged, photos, *axes))


def test_variants_are_all_combinations_and_their_names_are_files(judged: str, photos: Path) -> None:
    targets = AxisSpec(key="adapter.targets", values=("attn2.to_k,attn2.to_v", r"re:attn1\.to_[qk]$"))
    names = [one.name for one in make_candidates(spec_of(judged, photos, RANKS, targets))]
    assert names[0] == "rank-1_attn2.to_k-attn2.to_v"
    assert len(set(names)) == 4
    assert not any(set(name) & set("/\\:*?$[] ") for name in names)


def test_a_rank_is_walked_along_and_presets_stand_side_by_side(compared: Path) -> None:
    from detour.verbs.studies.table import Table

    table = Table.model_validate_json((compared / "table.json").read_text())
    panels = panels_of(table, ["adapter.rank"], levels=(BASE,))
    assert [place for place, _ in panels[0].series[0].points] == [1.0, 2.0]
    assert panels[0].levels[0][0] == BASE
    assert all(panel.y_label and panel.x_label == "rank" for panel in panels)


def test_a_subject_is_asked_for_where_its_pictures_do_not_show_it(tmp_path: Path) -> None:
    drawn = tmp_path / "octopus"
    arguments = ["pocket", "draw", str(drawn), "--count", "3", "--subject", "octopus", "purple", "a sks cat"]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    flags = {
        "data.source": str(drawn), "base.name": "pocket", "goal": "subject", "evaluate.num_prompts": 3,
        "prior.class_prompts": ("a cat",),
    }  # fmt: skip
    plan = plan_run(load_run_spec(flags=flags))
    questions = make_question_set(plan.spec, plan.base, judge=None)
    captions = [example.caption for example in plan.dataset.examples]
    assert [request.prompt for request in questions.requests] == [
        "a sks cat in the city", "a sks cat in the mountains", "a sks cat in the meadow",
    ]  # fmt: skip
    assert not set(captions) & {request.prompt for request in questions.requests}
    assert [request.prompt for request in questions.class_requests] == ["a cat"] * 3
    assert questions.truths is not None
    marks = questions.marks(questions.truths)
    assert set(marks) == {"likeness", "place", "clip"}
    assert questions.subject is not None
    noise = np.random.default_rng(0).integers(0, 255, questions.truths.shape, dtype=np.uint8)
    assert marks["likeness"] > questions.marks(noise)["likeness"] + 0.3


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("4,8", [4, 8]),
        ("1e-4,0.5", [1e-4, 0.5]),
        ("attn,conv", ["attn", "conv"]),
        ("attn,0.5", ["attn", 0.5]),
        ("true,false", [True, False]),
        ('["a","b"]', [["a", "b"]]),
        ("auto", ["auto"]),
    ],
)
def test_values_of_an_axis_are_read_as_toml_or_as_words(text: str, values: list[Any]) -> None:
    assert listed(text) == values


def test_the_command_prints_the_table_as_json(judged: str, photos: Path, tmp_path: Path) -> None:
    arguments = [
        "compare", str(photos), "--base", judged, "--set", "adapter.rank=1",
        "--preset", "attn2.to_k+attn2.to_v,attn1.to_q",
        "--steps", "2", "--seeds", "1", "--prompt", "a dog", "--picture-steps", "1", "--device", "cpu",
        "--set", "train.batch=1", "--set", "base.dtype=fp32", "--set", "validate.num_timesteps=1",
        "--out", str(tmp_path / "x"), "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["table"]["rows"]
    assert [row["variant"] for row in rows] == ["base", "attn2.to_k-attn2.to_v", "attn1.to_q"]
    assert torch.get_num_threads() >= 1


def test_with_one_seed_nothing_is_said_of_noise() -> None:
    """Two variants of one seed each: the better one is named, and that chance was not looked at."""
    variants = [Variant(name="r1"), Variant(name="r8")]
    for seeds in (1, 3):
        experiment = Experiment(name="compare", variants=variants, seeds=range(seeds), settings={})
        cells = [
            Cell(variant=name, seed=seed, samples={"object": (share,), "val_loss": (0.1,)}, seconds=1.0)
            for name, share in (("r1", 0.5), ("r8", 0.75))
            for seed in range(seeds)
        ]
        said = finding_of(experiment, cells, tabulate(experiment, cells, reference="r1"), base_rows=())
        assert ("One seed each: no difference can be told from chance. Add seeds: --seeds 3." in said) == (
            seeds == 1
        )
        assert ("no difference beyond noise" in said) == (seeds == 3)
        assert ("Right object: best r8 (0.75), then r1 (0.5)." in said) == (seeds == 1)
