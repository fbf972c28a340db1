"""Pictures of several sizes, their crops and masks, on the way into a batch."""

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detour.bases.denoiser import Denoiser
from detour.bases.text import Conditioning
from detour.data.folder import Dataset, read_dataset
from detour.data.framing import Framing
from detour.diffusion.process import SD_PROCESS
from detour.errors import DataError
from detour.specs import DataSpec, load_run_spec
from detour.training.batches import BatchPlan, draw_batch
from detour.training.cache import TextCache, TrainingData
from detour.training.cropped_latents import cache_cropped
from detour.training.data_fit import check_data, latent_masks
from detour.training.step import batch_loss
from detour.training.validation import fixed_validation
from tests.training.test_data_flow import FakeVae

SIZES = [(32, 32), (60, 24), (24, 60), (33, 32), (61, 24)]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    for index, (width, height) in enumerate(SIZES):
        pixels = np.random.default_rng(index).integers(0, 255, (height, width, 4), dtype=np.uint8)
        pixels[..., 3] = 255
        pixels[:, : width // 2, 3] = 0
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return read_dataset(DataSpec(source=str(tmp_path), caption="x"))


def framed(dataset: Dataset, *, crops: int = 0, flip: bool = True, **spec: object) -> TrainingData:
    framing = Framing(resolution_px=32, step_px=8, crops=crops)
    frames = tuple(framing.frames(e) for e in dataset.examples)
    latents = cache_cropped(FakeVae(), dataset.examples, frames, flip=flip, max_megapixels=1)
    states = Conditioning(torch.zeros(2, 1, 1))
    return TrainingData(
        latents=latents,
        text=TextCache(states, {"x": 0}),
        captions=("x",) * len(dataset),
        epoch=dataset.epoch,
        frames=frames,
        masks=latent_masks(dataset, frames, DataSpec(**spec), factor=2),  # type: ignore[arg-type]
    )


def test_latents_are_those_of_each_picture_at_its_own_size(dataset: Dataset) -> None:
    data = framed(dataset, crops=3)
    for index, example in enumerate(dataset.examples):
        for number, frame in enumerate(data.frames[index]):
            pixels = torch.from_numpy(frame.cut(example.open())).permute(2, 0, 1).float() / 127.5 - 1
            expected = torch.nn.functional.avg_pool2d(pixels, 2) * 0.5
            torch.testing.assert_close(data.latents.moments(index, 0, number)[0], expected)
            torch.testing.assert_close(data.latents.moments(index, 1, number)[0], expected.flip(-1))
    assert [len(frames) for frames in data.frames] == [1, 3, 3, 3, 3]
    assert {data.latents.shape_of(i) for i in range(5)} == {(3, 16, 16), (3, 8, 24), (3, 24, 8)}


def test_a_step_holds_one_size_its_halves_too_and_all_pictures_come_equally_often(dataset: Dataset) -> None:
    data = framed(dataset)
    shown: Counter[int] = Counter()
    for step in range(10):
        whole = draw_batch(BatchPlan(seed=2, batch=4), data, step, 0)
        halves = [draw_batch(BatchPlan(seed=2, batch=2, grad_accum=2), data, step, m) for m in (0, 1)]
        assert torch.equal(whole.latents, torch.cat([half.latents for half in halves]))
        shown.update(whole.pictures)
    assert shown == Counter(dict.fromkeys(range(5), 8))


def test_crops_are_shown_in_turns(dataset: Dataset) -> None:
    data = framed(dataset, crops=3, flip=False)
    seen: dict[int, list[tuple[int, ...]]] = {index: [] for index in range(5)}
    for step in range(30):
        batch = draw_batch(BatchPlan(seed=0, batch=1), data, step, 0)
        assert batch.size_ids is not None
        seen[batch.pictures[0]].append(tuple(int(x) for x in batch.size_ids[0]))
    for index, ids in seen.items():
        num = len(data.frames[index])
        possible = {frame.size_ids(mirrored=False) for frame in data.frames[index]}
        assert all(set(ids[start : start + num]) == possible for start in range(0, 6, num))


def test_masks_have_mean_one_are_mirrored_with_the_picture_and_have_a_floor(dataset: Dataset) -> None:
    data = framed(dataset, mask="alpha")
    for index in range(5):
        mask, mirrored = data.mask_of(index, 0, 0), data.mask_of(index, 1, 0)
        assert mask is not None
        assert mirrored is not None
        assert mask.shape[-2:] == data.latents.shape_of(index)[1:]
        assert float(mask.mean()) == pytest.approx(1)
        assert torch.equal(mirrored, mask.flip(-1))
        assert float(mask[0, 0, 0]) == 0
        assert float(mask[0, 0, -1]) > 1.8
    floored = framed(dataset, mask="alpha", mask_floor=0.25).mask_of(0, 0, 0)
    assert floored is not None
    assert float(floored[0, 0, 0] / floored[0, 0, -1]) == pytest.approx(0.25)
    assert draw_batch(BatchPlan(seed=0, batch=1), framed(dataset), 0, 0).mask is None


def test_what_a_mask_leaves_out_has_no_say_and_the_loss_keeps_its_scale(dataset: Dataset) -> None:
    data = framed(dataset, flip=False, mask="alpha")
    batch = draw_batch(BatchPlan(seed=0, batch=1), data, 0, 0)
    assert batch.mask is not None
    half = batch.noise.shape[-1] // 2

    class Answer(torch.nn.Module):
        def __init__(self, left: float, right: float) -> None:
            super().__init__()
            self.left, self.right = left, right

        def forward(self, noisy: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor]:
            error = torch.full_like(noisy, self.right)
            error[..., :half] = self.left
            return (batch.noise + error,)

    def loss(left: float, right: float) -> float:
        denoiser = Denoiser(
            network=Answer(left, right),
            part="unet",
            kind="UNet2DConditionModel",
            process=SD_PROCESS,
            device="cpu",
            dtype=torch.float32,
            autocast=True,
        )
        return float(batch_loss(denoiser, batch))

    assert loss(0.0, 3.0) == pytest.approx(9.0, rel=0.05)  # as if the whole picture had that error
    assert loss(100.0, 3.0) == pytest.approx(loss(0.0, 3.0), rel=0.05)


def test_an_empty_mask_is_refused(dataset: Dataset) -> None:
    path = dataset.examples[0].path
    assert path is not None
    image = Image.open(path)
    image.putalpha(0)
    image.save(path)
    dataset = read_dataset(DataSpec(source=str(path.parent), caption="x"))
    with pytest.raises(DataError, match=r"0.png: its mask leaves less than one latent position \(2 × 2 px\)"):
        framed(dataset, mask="alpha")


def test_masks_are_counted_with_the_share_that_counts(dataset: Dataset) -> None:
    base: Any = SimpleNamespace(bucket_step_px=8, refuse_side=lambda _: None)
    spec = load_run_spec(flags={"data.mask": "alpha", "data.resolution": 32})
    last = dataset.examples[-1].path
    assert last is not None
    # Every picture shows its right half, odd widths a little more.
    [note] = check_data(spec, dataset, base)
    assert note.startswith(f"{len(dataset)} masks, on average 5")
    assert note.endswith("% of a picture counts.")
    Image.open(last).convert("RGB").save(last)
    dataset = read_dataset(DataSpec(source=str(last.parent), caption="x"))
    notes = check_data(spec, dataset, base)
    assert notes[0].startswith(f"{len(dataset) - 1} masks, on average 5")
    assert notes[1] == f"1 picture is without a mask and counted in full ({last.name})."


def test_masks_that_leave_nothing_out_are_said_to(tmp_path: Path) -> None:
    Image.new("RGBA", (32, 32), (1, 2, 3, 255)).save(tmp_path / "a.png")
    base: Any = SimpleNamespace(bucket_step_px=8, refuse_side=lambda _: None)
    spec = load_run_spec(flags={"data.mask": "alpha", "data.resolution": 32})
    notes = check_data(spec, read_dataset(DataSpec(source=str(tmp_path), caption="x")), base)
    assert notes == ["1 mask, on average 100% of a picture counts. No mask leaves anything out."]


def test_validation_groups_its_pictures_by_size(dataset: Dataset) -> None:
    fixed = fixed_validation(framed(dataset), seed=0, batch=3, num_timesteps=2, process=SD_PROCESS)
    assert sum(len(batch) for batch in fixed.batches) == 10
    assert sorted({tuple(b.latents.shape[1:]) for b in fixed.batches}) == [
        (3, 8, 24),
        (3, 16, 16),
        (3, 24, 8),
    ]


def test_sdxl_is_told_what_its_own_pipeline_tells_it(dataset: Dataset) -> None:
    from diffusers import StableDiffusionXLPipeline

    # All that the method reads of its pipeline.
    unet = SimpleNamespace(
        config=SimpleNamespace(addition_time_embed_dim=8),
        add_embedding=SimpleNamespace(linear_1=SimpleNamespace(in_features=6 * 8 + 32)),
    )
    pipeline = SimpleNamespace(unet=unet)
    time_ids = partial(
        StableDiffusionXLPipeline._get_add_time_ids,
        pipeline,
        dtype=torch.float32,
        text_encoder_projection_dim=32,
    )
    told: list[torch.Tensor] = []

    class Listening(torch.nn.Module):
        def forward(
            self, noisy: torch.Tensor, *_: object, **conditions: dict[str, torch.Tensor]
        ) -> tuple[torch.Tensor]:
            told.append(conditions["added_cond_kwargs"]["time_ids"])
            return (noisy,)

    denoiser = Denoiser(
        network=Listening(),
        part="unet",
        kind="UNet2DConditionModel",
        process=SD_PROCESS,
        device="cpu",
        dtype=torch.float32,
        autocast=True,
    )
    data = framed(dataset, crops=2)
    text = Conditioning(torch.zeros(2, 77, 64), torch.zeros(2, 32))
    for step in range(6):
        batch = draw_batch(BatchPlan(seed=0, batch=2), data, step, 0)
        assert batch.size_ids is not None
        batch_loss(denoiser, replace(batch, text=text))
        for row, picture in zip(told[-1], batch.pictures, strict=True):
            width, height = SIZES[picture]
            frame = data.frames[picture][0]
            left, top = int(row[3]), int(row[2])
            theirs = time_ids((height, width), (top, left), frame.size_px[::-1])
            assert torch.equal(row[None], theirs)
            spare = (
                round(width * frame.scale) - frame.size_px[0],
                round(height * frame.scale) - frame.size_px[1],
            )
            assert 0 <= left <= max(spare[0], 0)
            assert 0 <= top <= max(spare[1], 0)
    denoiser.predict(batch.latents, batch.times, text)
    own = (8 * batch.latents.shape[-2], 8 * batch.latents.shape[-1])
    side = time_ids(own, (0, 0), own)
    assert torch.equal(told[-1], side.expand(2, 6))
