"""The thorough judgement of a run and of an adapter file."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from detour.adapter_files import write_adapter
from detour.bases.base import open_base
from detour.errors import ConfigError, Interrupted
from detour.evaluation.compared import Compared
from detour.evaluation.documents import read_document
from detour.evaluation.evaluation import Evaluation
from detour.evaluation.proof import VerdictName
from detour.evaluation.report import MAX_NEAREST
from detour.evaluation.verdict import HEADLINES, Verdict
from detour.generation.engine import PictureEngine
from detour.specs.evaluation import EvaluationSpec
from detour.verbs.judge.evaluation_run import EvaluationResult, evaluate_adapter, read_pictures
from detour.verbs.judge.verdict import with_copies
from detour.verbs.progress import Progress
from tests.evaluation.test_report import Elements
from tests.verbs.embedded import embedded_base
from tests.verbs.test_prove_run import make_run, trained_adapter

QUICK = EvaluationSpec(num_prompts=2, drift_prompts=1, steps=1)
ASKED = QUICK.model_copy(update={"require": ("pixels>0", "drift_with_trigger<1")})


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETOUR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def judged_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tiny base as an embedded one: the world writes its prompts, a random judge scores them."""
    with pytest.MonkeyPatch.context() as patch:
        yield embedded_base(tiny_base, tmp_path_factory.mktemp("bases"), patch, with_judge=True)


@pytest.fixture(scope="module")
def run(judged_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    make_run(folder, judged_base, trained_adapter(judged_base), prompts=())
    for index in range(4):
        (folder / "data" / f"{index}.txt").write_text("a blue dog")
    return folder


@pytest.fixture(scope="module")
def evaluated(run: Path) -> EvaluationResult:
    return evaluate_adapter(run, ASKED)


def test_every_compared_figure_stands_beside_base_and_both_trained_controls(
    evaluated: EvaluationResult,
) -> None:
    evaluation = evaluated.evaluation
    assert set(evaluation.controls) == {"rate_zero", "shuffled"}
    assert evaluation.fidelity is not None
    assert evaluation.prompt_keeping is not None
    assert evaluation.drift is not None
    assert evaluation.copies is not None
    for figure in (
        evaluation.fidelity.style_distance,
        evaluation.prompt_keeping.clip_score,
        evaluation.drift.without_trigger.clip_score,
        evaluation.copies.nearest,
    ):
        assert None not in (figure.base, figure.rate_zero, figure.shuffled)


def test_the_control_at_rate_zero_draws_the_base_s_pictures(evaluated: EvaluationResult) -> None:
    pictures = read_pictures(evaluated.folder, evaluated.evaluation)["held_out"]
    assert (pictures["rate_zero"] == pictures["base"]).all()
    assert (pictures["adapter"] != pictures["base"]).any()
    assert pictures["base"].shape == (2, 2, 64, 64, 3)


def test_seeds_differ_within_a_prompt(evaluated: EvaluationResult) -> None:
    base = read_pictures(evaluated.folder, evaluated.evaluation)["held_out"]["base"]
    assert (base[:, 0] != base[:, 1]).any()


def test_what_is_written_is_read_back_and_names_no_place_of_the_machine(evaluated: EvaluationResult) -> None:
    place = evaluated.folder / "evaluation.json"
    assert read_document(place, Evaluation, command="detour evaluate") == evaluated.evaluation
    assert str(evaluated.folder.parent) not in place.read_text()


def test_a_requirement_on_what_was_not_measured_is_not_met(evaluated: EvaluationResult) -> None:
    assert [(one.requirement, one.found) for one in evaluated.unmet] == [("drift_with_trigger<1", None)]


def test_the_second_evaluation_draws_and_trains_nothing_and_says_the_same(
    evaluated: EvaluationResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PictureEngine, "load", lambda *_, **__: pytest.fail("it loads a base to draw with"))
    again = evaluate_adapter(evaluated.folder, QUICK)
    assert rounded(again) == rounded(evaluated)


def rounded(result: EvaluationResult) -> Any:
    """What an evaluation says, to six digits: distances are sums in float32, whose last bits move with memory."""
    whole = json.loads(result.evaluation.model_dump_json(exclude={"requirements"}))
    return json.loads(json.dumps(whole), parse_float=lambda text: float(f"{float(text):.6g}"))


def test_more_prompts_or_seeds_draw_only_what_is_not_there(
    evaluated: EvaluationResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw = PictureEngine.draw

    def counted(self: PictureEngine, requests: list, *args, **settings):  # type: ignore[no-untyped-def, type-arg]
        drawn.append(len(requests))
        return draw(self, requests, *args, **settings)

    monkeypatch.setattr(PictureEngine, "draw", counted)
    evaluate_adapter(evaluated.folder, QUICK.model_copy(update={"seeds": 3, "controls": "base"}))
    assert (
        drawn == [2, 1, 2] * 2
    )  # new and unrelated prompts and captions at the third seed, base and adapter


def test_pictures_of_another_base_of_the_same_name_are_not_taken_for_this_one_s(
    judged_base: Path, run: Path, tmp_path: Path
) -> None:
    other = tmp_path / judged_base.name
    shutil.copytree(judged_base, other)
    weights = next((other / "unet").glob("*.safetensors"))
    save_file({name: 1.5 * value for name, value in load_file(weights).items()}, weights)
    file = next(run.glob("*.safetensors"))
    base = [
        read_pictures(found.folder, found.evaluation)["held_out"]["base"]
        for folder in (judged_base, other)
        for found in [
            evaluate_adapter(
                file,
                EvaluationSpec(base=str(folder), prompts=("a cup",), drift_prompts=0, seeds=1, steps=1),
                out=tmp_path / "out",
            )
        ]
    ]
    assert (base[0] != base[1]).any()


def test_ctrl_c_keeps_what_is_drawn_and_the_same_command_goes_on(
    run: Path, judged_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, out = QUICK.model_copy(update={"controls": "base"}), tmp_path / "out"

    def stop(report: Progress) -> None:
        if report.stage.startswith("drawing") and report.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="goes on"):
        evaluate_adapter(run, spec, out=out, progress=stop)
    kept = {path.name for path in (out / "evaluation" / "pictures").iterdir()}
    assert len(kept) == 2
    evaluation = evaluate_adapter(run, spec, out=out).evaluation
    files = evaluation.pictures["held_out"]["base"]
    assert kept == {Path(file).name for file in files}


def test_a_prompt_that_was_trained_on_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="'a blue dog'"):
        evaluate_adapter(run, EvaluationSpec(prompts=("A blue dog!",)))


def test_a_lone_file_is_evaluated_against_the_pictures_that_are_named(
    run: Path, judged_base: Path, tmp_path: Path
) -> None:
    file = tmp_path / "lone.safetensors"
    write_adapter(file, trained_adapter(judged_base), family=open_base(str(judged_base)).family)
    spec = EvaluationSpec(
        base=str(judged_base),
        pictures=str(run / "data"),
        references=str(run / "data"),
        prompts=("a cup",),
        drift_prompts=0,
        steps=1,
    )
    evaluation = evaluate_adapter(file, spec, out=tmp_path / "out").evaluation
    assert evaluation.fidelity is not None
    assert evaluation.reproduced is not None
    assert evaluation.drift is None
    assert set(evaluation.controls_left_out) == {"rate_zero", "shuffled"}
    with pytest.raises(ConfigError, match="Name the run's folder"):
        evaluate_adapter(file, spec.model_copy(update={"controls": "all"}))
    with pytest.raises(ConfigError, match="a run brings its own base"):
        evaluate_adapter(run, spec)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "how it was trained is not known here" in page
    assert "train.optim.lr" not in page


def test_pictures_that_must_not_be_reproduced_are_found_when_they_are(
    evaluated: EvaluationResult, tmp_path: Path
) -> None:
    from PIL import Image

    drawn = read_pictures(evaluated.folder, evaluated.evaluation)["held_out"]["adapter"].reshape(
        -1, 64, 64, 3
    )
    works = tmp_path / "works"
    works.mkdir()
    others = np.random.default_rng(5).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    for index, picture in enumerate((*drawn, *others)):
        Image.fromarray(picture).save(works / f"{index}.png")
    spec = QUICK.model_copy(
        update={"references": str(works), "controls": "base", "require": ("reproduced=0",)}
    )
    result = evaluate_adapter(evaluated.folder, spec)
    assert result.evaluation.reproduced is not None
    assert result.evaluation.reproduced.share.adapter == 1.0
    assert [one.requirement for one in result.unmet] == ["reproduced=0"]


@pytest.fixture(scope="module")
def page(run: Path, evaluated: EvaluationResult) -> str:
    """Written again, for other tests judge the same run with other settings; nothing is drawn anew."""
    return evaluate_adapter(run, ASKED).report.read_text(encoding="utf-8")


def test_the_page_shows_every_side_of_every_figure_and_what_was_asked_for(
    evaluated: EvaluationResult, page: str
) -> None:
    elements = Elements(page)
    said = " ".join(elements.text.split())
    for words in (
        "rate 0",
        "shuffled captions",
        "Copies of training pictures",
        "Unrelated prompts",
        "CLIP score",
    ):
        assert words in said
    assert "not met: drift_with_trigger<1, found nothing: not measured" in said
    assert all((attrs["src"] or "").startswith("data:") for tag, attrs in elements.tags if tag == "img")
    assert all(attrs.get("alt") for tag, attrs in elements.tags if tag == "img")
    figures = evaluated.evaluation.fidelity
    assert figures is not None
    assert f"{figures.style_distance.adapter:.4f}" in page
    assert f"{figures.style_distance.shuffled:.4f}" in page


def test_the_nearest_training_pictures_stand_beside_what_was_drawn(
    evaluated: EvaluationResult, page: str
) -> None:
    copies = evaluated.evaluation.copies
    assert copies is not None
    section = page[page.index("Nearest training pictures") :]
    section = section[: section.index("</section>")]
    assert section.count("<img") == 2 * min(len(copies.pairs), MAX_NEAREST) > 0
    assert not any(pair.copied for pair in copies.pairs)
    assert page.index("New prompts") < page.index("Nearest training pictures"), "copies alone come first"


def test_training_captions_are_asked_again_and_their_pictures_searched_for_copies(
    evaluated: EvaluationResult, page: str
) -> None:
    recited = evaluated.evaluation.recited
    assert recited is not None
    drawn = read_pictures(evaluated.folder, evaluated.evaluation)["recited"]
    assert len(drawn["adapter"]) == 2 == len(evaluated.evaluation.pictures["recited"]["adapter"])
    assert set(drawn) == {"base", "adapter", "rate_zero", "shuffled"}
    assert "Learned by heart?" in page


@pytest.mark.parametrize(
    ("before", "share", "after"),
    [
        ("learned", 0.75, "copies"),
        ("learned", 0.25, "learned"),
        ("overfit", 0.75, "overfit"),
        ("learned", 0.0, "learned"),
    ],
)
def test_what_is_learned_by_heart_is_a_copy_unless_something_worse_is_found(
    evaluated: EvaluationResult, before: VerdictName, share: float, after: str
) -> None:
    figures = evaluated.evaluation.recited
    assert figures is not None
    found = figures.model_copy(update={"share": Compared(adapter=share, base=0.0)})
    verdict = with_copies(Verdict(name=before, reasons=("So.",)), found, "{share} against {base}")
    assert verdict.name == after
    assert (verdict.headline == HEADLINES["copies"]) == (before != after)
    assert "So." in verdict.reasons
    assert (f"{share:.0%} against 0%" in verdict.reasons) == (share > 0)
