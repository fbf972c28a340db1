"""Where the prompts of an evaluation come from, and what has nothing to do with the training."""

from dataclasses import replace
from pathlib import Path

import pytest

from detour.bases.base import open_base
from detour.errors import ConfigError
from detour.evaluation.report import Metrics
from detour.pocket.world import HELD_OUT
from detour.specs import BaseSpec, DataSpec, RunSpec
from detour.specs.evaluation import EvaluationSpec
from detour.verbs.judge import held_out_material
from detour.verbs.judge.finished_run import FinishedRun
from detour.verbs.judge.held_out_material import write_world_style
from detour.verbs.judge.material import EvaluationMaterial, gather_material
from detour.verbs.judge.presets import thorough_preset
from tests.verbs.photos import make_photos

CAPTIONS = ("a red house in the forest", "a blue car on the beach", "a green cup in the snow", "a cat")


def make(folder: Path, base: str, *, trigger: str = "", holdout: float = 0.25) -> FinishedRun:
    data = make_photos(folder / "data", 8)
    for index in range(8):
        (data / f"{index}.txt").write_text(CAPTIONS[index % 4] if index < 6 else f"a bird number {index}")
    spec = RunSpec(
        name="x",
        base=BaseSpec(name=base),
        data=DataSpec(source=str(data), holdout=holdout, trigger=trigger, resolution=64),
    )
    return FinishedRun(
        folder=folder, spec=spec, adapter_file=folder / "x", state={}, gradients=None, metrics=Metrics()
    )


def gathered(run: FinishedRun, **spec: object) -> EvaluationMaterial:
    base = open_base(run.spec.base.name)
    return gather_material(run, base, thorough_preset(EvaluationSpec.model_validate(spec)), size_px=64)


def test_captions_that_were_kept_out_come_first_and_templates_fill_up(
    tiny_base: Path, tmp_path: Path
) -> None:
    run = make(tmp_path, str(tiny_base), trigger="sks")
    material = gathered(run, num_prompts=6)
    sources = [one.source for one in material.held_out]
    assert sources == sorted(sources, key=("caption", "template").index)
    assert len(sources) == 6
    assert "template" in sources
    assert all(prompt.startswith("sks, ") for prompt in material.new_prompts.prompts)
    assert not any("sks" in plain for plain in material.new_prompts.plain)


def test_the_world_writes_for_its_own_base_and_knows_what_it_asked_for(tmp_path: Path) -> None:
    run = make(tmp_path, "pocket")
    write_world_style(tmp_path, "comic")
    material = gathered(run, num_prompts=3, seeds=2)
    assert {one.source for one in material.held_out} == {"world"}
    assert material.truths is not None
    assert material.references is not None
    assert material.prompt_of_reference is not None
    assert len(material.truths) == 6
    assert len(material.prompt_of_reference) == len(material.references)
    assert (material.truths[0] != material.truths[1]).any()  # another scene of the same prompt


def test_a_palette_of_the_world_is_a_style_too(tmp_path: Path) -> None:
    write_world_style(tmp_path, "dusk")
    assert gathered(make(tmp_path, "pocket"), num_prompts=1).truths is not None


def test_drawn_pictures_say_their_style_themselves_and_a_subject_is_none(tmp_path: Path) -> None:
    run = make(tmp_path, "pocket")
    pictures = Path(run.spec.data.source)
    assert gathered(run, num_prompts=1).truths is None
    write_world_style(pictures, "comic")
    assert gathered(run, num_prompts=1).truths is not None
    (pictures / "world.json").write_text('{"subject": "cat", "colour": "red", "words": "a sks cat"}')
    assert gathered(run, num_prompts=1).truths is None


def test_pictures_that_are_left_out_of_the_search_for_copies_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not gathered(make(tmp_path / "all", "pocket"), num_prompts=1).notes
    monkeypatch.setattr(held_out_material, "MAX_TRAINING_PICTURES", 3)
    notes = gathered(make(tmp_path / "some", "pocket"), num_prompts=1).notes
    assert notes == ("Of 8 pictures 5 were compared with: a copy of another one is not seen.",)


def test_no_true_picture_is_a_reference(tmp_path: Path) -> None:
    run = make(tmp_path, "pocket")
    write_world_style(tmp_path, "comic")
    material = gathered(run, num_prompts=4, seeds=3)
    assert material.truths is not None
    assert material.references is not None
    references = {one.tobytes() for one in material.references}
    assert len(references) == len(material.references)
    assert not references & {one.tobytes() for one in material.truths}


def test_unrelated_prompts_of_the_world_are_known_to_its_base_and_in_no_caption(tmp_path: Path) -> None:
    run = make(tmp_path, "pocket", trigger="sks")
    plain, triggered = gathered(run, drift_prompts=8).unrelated
    assert len(plain.facts) == 8
    for fact in plain.facts:
        assert (fact.object, fact.colour, fact.place) not in HELD_OUT.combinations
        assert not any(fact.object in caption and fact.place in caption for caption in CAPTIONS)
    assert not any(fact.object in caption for fact in plain.facts for caption in CAPTIONS)
    assert triggered.prompts == tuple(f"sks, {prompt}" for prompt in plain.prompts)
    assert triggered.plain == plain.plain


def test_a_lone_file_asks_for_what_its_tags_name_and_refuses_when_there_are_none(
    tiny_base: Path, tmp_path: Path
) -> None:
    run = make(tmp_path, str(tiny_base))
    lone = replace(run, spec=run.spec.model_copy(update={"data": DataSpec()}), tags=("a robot",))
    material = gathered(lone, num_prompts=2)
    assert all("a robot" in plain for plain in material.new_prompts.plain)
    with pytest.raises(ConfigError, match="--prompt"):
        gathered(replace(lone, tags=()))


def a_subject(
    folder: Path, base: str, *, trigger: str = "sks", class_prompts: tuple[str, ...] = ()
) -> FinishedRun:
    run = make(folder, base, trigger=trigger)
    for index in range(8):
        (Path(run.spec.data.source) / f"{index}.txt").write_text(
            f"a sks cat in the {'city' if index % 2 else 'desert'}"
        )
    prior = run.spec.prior.model_copy(update={"class_prompts": class_prompts})
    return replace(run, spec=run.spec.model_copy(update={"goal": "subject", "prior": prior}))


def test_a_subject_is_asked_for_alone_in_new_places_and_its_class_in_the_same(tmp_path: Path) -> None:
    material = gathered(a_subject(tmp_path, "pocket"), num_prompts=8)
    assert len(material.new_prompts.prompts) == 4  # the other half are the class's
    assert material.own_class is not None
    for prompt, of_class in zip(material.new_prompts.prompts, material.own_class.prompts, strict=True):
        assert prompt.startswith("a sks cat ")
        assert of_class == prompt.replace("sks ", "")
        assert "city" not in prompt
        assert "desert" not in prompt
    assert material.new_prompts.plain == material.own_class.prompts
    place = material.new_prompts.choices["place"]
    assert [row[right] for row, right in zip(place.phrases, place.right, strict=True)] == list(
        material.new_prompts.plain
    )


def test_a_subject_whose_class_nobody_names_is_asked_for_as_before(tmp_path: Path) -> None:
    material = gathered(a_subject(tmp_path, "pocket", trigger=""), num_prompts=4)
    assert material.own_class is None
    named = gathered(a_subject(tmp_path / "b", "pocket", trigger="", class_prompts=("a cat",)), num_prompts=4)
    assert named.own_class is not None
    assert all(one.startswith("a cat ") for one in named.own_class.prompts)


def test_the_user_s_own_pictures_and_what_their_captions_name_are_the_ceiling(tmp_path: Path) -> None:
    run = make(tmp_path, "pocket", trigger="sks")
    material = gathered(run, num_prompts=2)
    assert material.own is not None
    assert len(material.own) == len(material.own_captions) == 8
    assert not material.own_facts  # these captions name no object, colour and place of the world
    assert material.truths is None
    for index in range(8):
        (Path(run.spec.data.source) / f"{index}.txt").write_text("a red house in the desert")
    known = gathered(run, num_prompts=2)
    assert [(one.object, one.colour, one.place) for one in known.own_facts] == [
        ("house", "red", "desert")
    ] * 8
