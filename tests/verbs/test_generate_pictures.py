import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detour.adapter_files.writing import write_adapter
from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.errors import AdapterError, BaseError, ConfigError
from detour.generation.png import read_png_metadata
from detour.specs.generation import GenerateSpec, PictureSpec
from detour.verbs.draw import pictures as recipe
from detour.verbs.draw.picture_files import slug
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.draw.provenance import verify_picture
from detour.verbs.progress import Progress


@pytest.fixture(scope="module")
def lora(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter of the tiny base, strong enough to be seen."""
    base = open_base(str(tiny_base))
    generator = torch.Generator().manual_seed(0)
    layers = {
        f"unet.{layer.path}": LoraLayer(
            down=torch.randn(2, layer.in_features, generator=generator),
            up=torch.randn(layer.out_features, 2, generator=generator),
            alpha=2.0,
        )
        for layer in select(adaptable_layers(base.meta_network()), "attn")
    }
    path = tmp_path_factory.mktemp("adapters") / "style.safetensors"
    write_adapter(path, Adapter(layers, {}), family=base.family)
    return path


@pytest.mark.parametrize("name", ["x.png", "taken/pictures", "taken"])
def test_a_place_that_is_no_folder_is_told_before_the_work(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(recipe, "open_base", lambda *_, **__: pytest.fail("work was done"))
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ConfigError, match=r"Name a folder|Choose another --out"):
        generate_pictures(spec_of(tiny_base), out=tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def spec_of(tiny: Path, /, **values: object) -> GenerateSpec:
    defaults = {
        "prompts": ("a red house",),
        "base": str(tiny),
        "picture": PictureSpec(steps=2),
        "device": "cpu",
    }
    return GenerateSpec(**{**defaults, **values})


def test_writes_one_numbered_file_a_picture_with_its_own_seed(tiny_base: Path, tmp_path: Path) -> None:
    spec = spec_of(tiny_base, prompts=("a red house", "Ünïcode/../x?"), count=2, seed=40)
    result = generate_pictures(spec, out=tmp_path)
    assert [file.path.name for file in result.files] == [
        "0000-a-red-house-seed40.png",
        "0001-a-red-house-seed41.png",
        "0002-n-code-x-seed42.png",
        "0003-n-code-x-seed43.png",
    ]
    assert {path.name for path in tmp_path.glob("*.png")} == {file.path.name for file in result.files}
    metadata = read_png_metadata(result.files[2].path)
    assert metadata is not None
    assert (metadata.prompt, metadata.seed, metadata.steps) == ("Ünïcode/../x?", 42, 2)
    assert (metadata.base, metadata.guidance_scale, metadata.width_px) == ("tiny", 7.5, 64)
    assert metadata.safety == "absent"
    assert metadata.threads == torch.get_num_threads()
    assert any("no safety checker" in note for note in result.notes)


def test_the_same_command_writes_the_same_bytes(tiny_base: Path, lora: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        spec = spec_of(tiny_base, count=2, loras=(str(lora),), compare=True, trace=2)
        generate_pictures(spec, out=tmp_path / name, grid=True)
    first, second = (sorted((tmp_path / name).glob("*.png")) for name in ("a", "b"))
    assert [path.name for path in first] == [path.name for path in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))


def test_merged_adapters_draw_what_adapters_beside_the_layers_draw_and_the_picture_says_so(
    tiny_base: Path, lora: Path, tmp_path: Path
) -> None:
    def drawn(name: str, **values: object) -> np.ndarray:
        spec = spec_of(tiny_base, count=2, loras=(f"{lora}:0.5", f"{lora}:0.25"), **values)
        files = generate_pictures(spec, out=tmp_path / name).files
        metadata = read_png_metadata(files[0].path)
        assert metadata is not None
        assert metadata.merged is bool(values)
        assert [use.weight for use in metadata.adapters] == [0.5, 0.25]
        return np.stack([pixels(file.path) for file in files]).astype(int)

    beside, merged = drawn("beside"), drawn("merged", merge=True)
    plain = generate_pictures(spec_of(tiny_base, count=2), out=tmp_path / "plain").files
    assert np.abs(np.stack([pixels(file.path) for file in plain]).astype(int) - beside).max() > 10
    assert np.abs(beside - merged).max() <= 1
    picture = next((tmp_path / "merged").glob("*.png"))
    assert verify_picture(picture, base=str(tiny_base), files=lora.parent, device="cpu").state == "equal"


@pytest.mark.parametrize(
    ("values", "word"),
    [({}, "name one"), ({"compare": True}, "--compare"), ({"lora_steps": ((0.0, 1.0),)}, "--lora-steps")],
)
def test_what_does_not_go_with_merging_is_refused(
    tiny_base: Path, lora: Path, tmp_path: Path, values: dict[str, object], word: str
) -> None:
    loras = (str(lora),) if values else ()
    with pytest.raises(ConfigError, match=word):
        generate_pictures(spec_of(tiny_base, merge=True, loras=loras, **values), out=tmp_path)


def test_metadata_holds_no_path_of_this_machine(tiny_base: Path, lora: Path, tmp_path: Path) -> None:
    generate_pictures(spec_of(tiny_base, loras=(str(lora),)), out=tmp_path)
    for path in tmp_path.glob("*.png"):
        assert str(tiny_base.parent).encode() not in path.read_bytes()
        assert str(lora.parent).encode() not in path.read_bytes()


def test_nothing_is_written_over_unless_forced(tiny_base: Path, tmp_path: Path) -> None:
    first = generate_pictures(spec_of(tiny_base, seed=1), out=tmp_path).files[0].path
    kept = first.read_bytes()
    second = generate_pictures(spec_of(tiny_base, seed=1), out=tmp_path).files[0].path
    assert (first.name[:4], second.name[:4]) == ("0000", "0001")
    assert first.read_bytes() == kept
    first.write_bytes(b"old")
    generate_pictures(spec_of(tiny_base, seed=1), out=tmp_path, force=True)
    assert first.read_bytes() == kept


def test_strength_along_the_steps_goes_from_the_base_to_the_adapter(
    tiny_base: Path, lora: Path, tmp_path: Path
) -> None:
    def drawn(name: str, *steps: tuple[float, float], loras: tuple[str, ...] = (str(lora),)) -> np.ndarray:
        picture = PictureSpec(steps=4)
        spec = spec_of(tiny_base, loras=loras, lora_steps=steps, picture=picture, compare=bool(steps))
        files = generate_pictures(spec, out=tmp_path / name).files
        if steps:  # the base beside it is the plain one, whatever factor came last
            kinds = {file.kind: pixels(file.path) for file in files}
            assert (kinds["base"] == plain).all()
            metadata = read_png_metadata(files[0].path)
            assert metadata is not None
            assert metadata.adapter_steps == steps
        return pixels(files[0].path)

    plain, full = drawn("plain", loras=()), drawn("full")
    assert (drawn("never", (0.0, 0.0)) == plain).all()
    assert (drawn("always", (0.0, 1.0)) == full).all()
    early, late = drawn("early", (0.0, 1.0), (0.5, 0.0)), drawn("late", (0.0, 0.0), (0.5, 1.0))
    for one, other in [(early, plain), (early, full), (late, plain), (late, full), (early, late)]:
        assert not (one == other).all()
    with pytest.raises(ConfigError, match="name one with --lora"):
        generate_pictures(spec_of(tiny_base, lora_steps=((0.0, 1.0),)), out=tmp_path / "no")


def test_compare_draws_each_seed_with_and_without_the_adapter(
    tiny_base: Path, lora: Path, tmp_path: Path
) -> None:
    result = generate_pictures(
        spec_of(tiny_base, loras=(f"{lora}:0.5",), compare=True), out=tmp_path / "both"
    )
    kinds = {file.kind: file for file in result.files}
    assert set(kinds) == {"picture", "base", "compare"}
    plain = generate_pictures(spec_of(tiny_base), out=tmp_path / "plain").files[0]
    assert (pixels(kinds["base"].path) == pixels(plain.path)).all()
    adapted = pixels(kinds["picture"].path)
    assert result.mean_abs_diff == pytest.approx(np.abs(adapted - pixels(plain.path)).mean())
    assert result.mean_abs_diff > 0.5
    metadata = kinds["picture"].metadata
    assert metadata is not None
    (use,) = metadata.adapters
    assert (use.name, use.weight) == ("style", 0.5)
    assert use.sha256 == hashlib.sha256(lora.read_bytes()).hexdigest()
    assert kinds["base"].metadata is not None
    assert kinds["base"].metadata.adapters == ()


def test_a_weight_of_zero_changes_nothing(tiny_base: Path, lora: Path, tmp_path: Path) -> None:
    result = generate_pictures(spec_of(tiny_base, loras=(f"{lora}:0",), compare=True), out=tmp_path)
    assert result.mean_abs_diff == 0


def test_two_adapters_work_together(tiny_base: Path, lora: Path, tmp_path: Path) -> None:
    half = generate_pictures(spec_of(tiny_base, loras=(f"{lora}:0.5", f"{lora}:0.5")), out=tmp_path / "two")
    whole = generate_pictures(spec_of(tiny_base, loras=(str(lora),)), out=tmp_path / "one")
    apart = np.abs(pixels(half.files[0].path) - pixels(whole.files[0].path))
    assert apart.max() <= 2  # two halves round otherwise than one whole: 1 or 2 of 255, by processor
    assert apart.mean() < 0.1


def test_trace_keeps_moments_and_a_strip(tiny_base: Path, tmp_path: Path) -> None:
    spec = spec_of(tiny_base, trace=2, picture=PictureSpec(steps=4))
    result = generate_pictures(spec, out=tmp_path)
    assert [file.kind for file in result.files] == ["picture", "moment", "moment", "trace"]
    assert (pixels(result.files[2].path) == pixels(result.files[0].path)).all()
    metadata = result.files[1].metadata
    assert metadata is not None
    assert metadata.moment == "step 2 of 4"


def test_grid_shows_every_picture(tiny_base: Path, tmp_path: Path) -> None:
    result = generate_pictures(spec_of(tiny_base, prompts=("a", "b", "c")), out=tmp_path, grid=True)
    sheet = pixels(result.files[-1].path)
    assert result.files[-1].kind == "grid"
    assert sheet.shape[1] > 3 * 64
    for file in result.files[:-1]:
        picture = pixels(file.path)
        assert any((sheet[y : y + 64, x : x + 64] == picture).all() for y, x in corners(sheet, picture))


def test_progress_counts_the_pictures_of_both_sides(tiny_base: Path, lora: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    spec = spec_of(tiny_base, prompts=("a", "b", "c"), batch=2, loras=(str(lora),), compare=True)
    generate_pictures(spec, out=tmp_path, progress=seen.append)
    drawing = [(moment.done, moment.total) for moment in seen if moment.stage == "drawing"]
    assert drawing == sorted(drawing)
    assert {(done, 6) for done in range(1, 7)} <= set(drawing) <= {(done, 6) for done in range(7)}
    assert seen[-1].seconds_left == 0


def test_batches_that_are_done_stay_when_the_call_is_stopped(tiny_base: Path, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_pictures(spec_of(tiny_base, count=3, batch=1), out=tmp_path, progress=stop)
    assert [path.name for path in tmp_path.glob("*.png")] == ["0000-a-red-house-seed0.png"]


def test_two_threads_that_write_to_one_folder_get_numbers_of_their_own(
    tiny_base: Path, tmp_path: Path
) -> None:
    spec = spec_of(tiny_base, count=2, picture=PictureSpec(steps=1))
    failed: list[Exception] = []

    def draw() -> None:
        try:
            generate_pictures(spec, out=tmp_path)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=draw) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert sorted(path.name[:4] for path in tmp_path.glob("*.png")) == [
        f"{number:04d}" for number in range(6)
    ]


def test_the_recorded_width_class_gives_the_same_pixels_in_other_company(
    tiny_base: Path, tmp_path: Path
) -> None:
    together = generate_pictures(spec_of(tiny_base, count=3), out=tmp_path / "together").files
    metadata = together[2].metadata
    assert metadata is not None
    assert metadata.width_class == 8
    spec = spec_of(tiny_base, seed=metadata.seed, width_class=metadata.width_class)
    alone = generate_pictures(spec, out=tmp_path / "alone").files
    assert (pixels(alone[0].path) == pixels(together[2].path)).all()


def test_what_is_drawn_does_not_depend_on_the_batch_beyond_rounding(tiny_base: Path, tmp_path: Path) -> None:
    results = [
        generate_pictures(spec_of(tiny_base, count=3, batch=batch), out=tmp_path / str(batch))
        for batch in (1, 3)
    ]
    for one, many in zip(*(result.files for result in results), strict=True):
        assert np.abs(pixels(one.path) - pixels(many.path)).max() <= 1


def test_prompts_that_are_too_long_are_said(tiny_base: Path, tmp_path: Path) -> None:
    result = generate_pictures(spec_of(tiny_base, prompts=("word " * 60,)), out=tmp_path)
    assert any("was read in 4 windows" in note for note in result.notes)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"prompts": ()}, ConfigError, "no prompts"),
        ({"compare": True}, ConfigError, "--lora"),
        ({"trace": 3}, ConfigError, "only 2 steps"),
        ({"loras": ("missing.safetensors",)}, AdapterError, "no such file"),
        ({"base": "sd15"}, BaseError, "settings alone"),
        ({"revision": "v2"}, BaseError, "not on the hub"),
    ],
)
def test_bad_requests_write_nothing(
    tiny_base: Path, tmp_path: Path, values: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        generate_pictures(spec_of(tiny_base, **values), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_base_is_refused_before_anything_is_loaded(lora: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="width 32"):
        generate_pictures(spec_of(Path("pocket"), loras=(str(lora),)), out=tmp_path / "out")


def test_file_names_are_short_and_plain() -> None:
    assert slug("A red house!") == "a-red-house"
    assert slug("東京") == "picture"
    assert len(slug("x y " * 100)) <= 40


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def corners(sheet: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """Where the picture's first pixel occurs in the sheet with room for the rest."""
    found = np.argwhere((sheet == picture[0, 0]).all(axis=2))
    return [(int(y), int(x)) for y, x in found if y + 64 <= sheet.shape[0] and x + 64 <= sheet.shape[1]]


def test_a_few_step_adapter_is_drawn_as_such_files_want(tiny_base: Path, lora: Path, tmp_path: Path) -> None:
    named = tmp_path / "sdxl_lightning_2step_lora.safetensors"
    named.write_bytes(lora.read_bytes())
    plain = GenerateSpec(prompts=("a red house",), base=str(tiny_base), loras=(str(named),), device="cpu")
    found = generate_pictures(plain, out=tmp_path / "out")
    made = found.files[0].metadata
    assert made is not None
    assert (made.steps, made.guidance_scale, made.scheduler, made.spacing) == (2, 1.0, "euler", "trailing")
    assert "Lightning by its name" in found.notes[0]
    assert not [one for one in found.warnings if one.rule == "distilled-settings"]

    burnt = plain.model_copy(update={"picture": PictureSpec(steps=25, guidance_scale=7.5)})
    warned = [
        one
        for one in generate_pictures(burnt, out=tmp_path / "out").warnings
        if one.rule == "distilled-settings"
    ]
    assert {"25 steps" in one.what or "guidance 7.5" in one.what for one in warned} == {True}

    off = generate_pictures(
        plain.model_copy(update={"fast": "off", "picture": PictureSpec(steps=3)}), out=tmp_path / "out"
    )
    assert off.files[0].metadata is not None
    assert (off.files[0].metadata.steps, off.files[0].metadata.scheduler) == (3, "dpm++")
    with pytest.raises(ConfigError, match="fast quick: 'quick' is not one of"):
        generate_pictures(plain.model_copy(update={"fast": "quick"}), out=tmp_path / "out")
