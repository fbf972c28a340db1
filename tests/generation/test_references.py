"""Reference pictures: those of diffusers' pipelines, row by row, and the base to the byte at strength 0."""

import copy
import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from detour.adapter_files.reference_files import read_reference_adapter
from detour.adapter_files.writing import write_adapter
from detour.adapters.adapter import Adapter
from detour.adapters.reference_rows import factor_of, names_of_blocks
from detour.bases.base import open_base
from detour.bases.image_encoder import load_image_encoder
from detour.errors import AdapterError, ConfigError
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.generation.references import ReferenceInUse, ReferenceTool
from detour.specs.generation import PictureSpec
from tests.generation.pool import chosen, lora, make_adapters, make_pool
from tests.reference_files import ENCODER, Kind, make_image_encoder, reference_tensors
from tests.tiny_base import make_tiny_sdxl

SIZE = ENCODER["image_size"]
HOW = PictureSpec(steps=3, guidance_scale=5.0, scheduler="ddim")


def photo(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def used(tool: ReferenceTool, seed: int, strength: float = 0.8, **more: Any) -> ReferenceInUse:
    picture = photo(seed)
    sha256 = hashlib.sha256(picture.tobytes()).hexdigest()
    return ReferenceInUse(tool=tool, picture=picture, sha256=sha256, strength=strength, **more)


class Bench:
    """A base of true classes in miniature, its IP-Adapters as files, and diffusers' pipeline over copies."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.base = open_base(str(base))
        self.engine = PictureEngine.load(self.base)
        self.folder = folder
        self.encoder_folder = make_image_encoder(folder / "image_encoder")
        self.encoder = load_image_encoder(self.encoder_folder)
        self.lora = Adapter(
            {k: lora(w, 4, 70) for k, w in chosen(self.engine.unet, "unet", "attn1", "attn2").items()}
        )

    def tool(self, kind: Kind) -> ReferenceTool:
        path = self.folder / f"{kind}.safetensors"
        if not path.is_file():
            safetensors.torch.save_file(reference_tensors(self.engine.unet, kind, tokens=4), path)
        return ReferenceTool(read_reference_adapter(path), self.encoder)

    def theirs(
        self,
        kind: Kind,
        scale: Any,
        seeds: Sequence[int],
        *,
        guidance: float = 5.0,
        lora_weight: float = 0.0,
        until: int = 0,
    ) -> np.ndarray:
        import diffusers

        parts = copy.deepcopy({**self.engine.text.models, "unet": self.engine.unet})
        tokenizers = {
            k.replace("text_encoder", "tokenizer"): v for k, v in self.engine.text.tokenizers.items()
        }
        scheduler = diffusers.DDIMScheduler.from_config(self.base.scheduler_config())
        encoder = copy.deepcopy(self.encoder.model)
        extractor = CLIPImageProcessorPil(
            size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
        )
        common = {"vae": self.engine.vae, "scheduler": scheduler, "image_encoder": encoder}
        common |= {"feature_extractor": extractor}
        if self.base.family.name == "sdxl":
            pipeline: Any = diffusers.StableDiffusionXLPipeline(
                **common, **parts, **tokenizers, add_watermarker=False
            )
        else:
            pipeline = diffusers.StableDiffusionPipeline(
                **common, **parts, **tokenizers, safety_checker=None, requires_safety_checker=False
            )
        pipeline.set_progress_bar_config(disable=True)
        if lora_weight:
            file = write_adapter(
                self.folder / "lora", self.lora, file_format="diffusers", family=self.base.family
            )
            pipeline.load_lora_weights(str(file), adapter_name="a")
            pipeline.set_adapters(["a"], [lora_weight])
        self.tool(kind)
        num = len(seeds)
        pipeline.load_ip_adapter(
            [str(self.folder)] * num, subfolder=[""] * num, weight_name=[f"{kind}.safetensors"] * num
        )
        pipeline.set_ip_adapter_scale(scale)

        def after_step(_: Any, step: int, __: Any, states: dict[str, Any]) -> dict[str, Any]:
            if step + 1 == until:
                pipeline.set_ip_adapter_scale(0.0)
            return states

        images = pipeline(
            "a red house",
            num_inference_steps=3,
            guidance_scale=guidance,
            ip_adapter_image=[photo(seed) for seed in seeds],
            callback_on_step_end=after_step,
            generator=torch.Generator().manual_seed(3),
            output_type="np",
        ).images
        return (images * 255).round().astype(int)

    def ours(
        self, *references: ReferenceInUse, guidance: float = 5.0, lora_weight: float = 0.0
    ) -> np.ndarray:
        adapters = (AdapterInUse(adapter=self.lora, weight=lora_weight),) if lora_weight else ()
        how = HOW.model_copy(update={"guidance_scale": guidance})
        request = PictureRequest(
            prompt="a red house", seed=3, how=how, references=references, adapters=adapters
        )
        return self.engine.draw([request]).pictures.astype(int)


@pytest.fixture(scope="module")
def sd(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("references"), tiny_base)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("references-xl")
    return Bench(folder, make_tiny_sdxl(folder / "base"))


def alike(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return int(np.abs(ours - theirs).max()) <= 1


@pytest.mark.parametrize("kind", ["plain", "plus", "full"])
@pytest.mark.parametrize("lora_weight", [0.0, 0.7])
def test_sd_draws_what_diffusers_draws(sd: Bench, kind: Kind, lora_weight: float) -> None:
    mine = sd.ours(used(sd.tool(kind), 1, 0.8), lora_weight=lora_weight)
    assert alike(mine, sd.theirs(kind, 0.8, [1], lora_weight=lora_weight))
    assert not alike(mine, sd.ours(lora_weight=lora_weight))  # it does something
    assert not alike(mine, sd.ours(used(sd.tool(kind), 2, 0.8), lora_weight=lora_weight))  # of its picture


@pytest.mark.parametrize("kind", ["plain", "plus"])
def test_sdxl_draws_what_diffusers_draws(sdxl: Bench, kind: Kind) -> None:
    mine = sdxl.ours(used(sdxl.tool(kind), 1, 0.8), lora_weight=0.7)
    assert alike(mine, sdxl.theirs(kind, 0.8, [1], lora_weight=0.7))
    assert not alike(mine, sdxl.ours(lora_weight=0.7))


def test_without_guidance_the_only_row_sees_the_picture(sd: Bench) -> None:
    mine = sd.ours(used(sd.tool("plus"), 1, 0.8), guidance=1.0)
    assert alike(mine, sd.theirs("plus", 0.8, [1], guidance=1.0))


def test_several_references_add_up_each_at_its_strength(sd: Bench) -> None:
    tool = sd.tool("plain")
    mine = sd.ours(used(tool, 1, 0.5), used(tool, 2, 0.9))
    assert alike(mine, sd.theirs("plain", [0.5, 0.9], [1, 2]))


def test_blocks_have_strengths_of_their_own(sd: Bench) -> None:
    blocks = (("down", 0.0), ("mid", 0.0), ("up.1", 0.5), ("up.1.0", 1.0))
    mine = sd.ours(used(sd.tool("plain"), 1, 0.8, blocks=blocks))
    assert alike(mine, sd.theirs("plain", {"up": {"block_1": [0.8, 0.4]}}, [1]))
    with pytest.raises(ConfigError, match=r"no cross-attention in 'up\.0'.*Did you mean 'up\.1\.0'"):
        sd.ours(used(sd.tool("plain"), 1, blocks=(("up.0", 1.0),)))


def test_the_exactest_name_of_a_block_counts() -> None:
    path = "up_blocks.0.attentions.1.transformer_blocks.0.attn2"
    assert names_of_blocks(path) == ("up.0.1", "up.0", "up")
    assert names_of_blocks("mid_block.attentions.0.transformer_blocks.0.attn2") == ("mid",)
    assert factor_of(path, (("up", 0.2), ("up.0.1", 0.9), ("up.0", 0.3))) == 0.9
    assert factor_of(path, (("down", 0.2),)) == 1.0


@pytest.mark.parametrize("kind", ["plain", "plus"])
def test_strength_0_is_the_base_to_the_byte(sd: Bench, kind: Kind) -> None:
    tool = sd.tool(kind)
    assert np.array_equal(sd.ours(used(tool, 1, 0.0)), sd.ours())
    assert np.array_equal(sd.ours(used(tool, 1, step_weights=((0.0, 0.0),))), sd.ours())
    assert np.array_equal(sd.ours(used(tool, 1, 0.0), used(tool, 2, 0.7)), sd.ours(used(tool, 2, 0.7)))


def test_strengths_follow_the_steps(sd: Bench) -> None:
    tool = sd.tool("plain")
    assert np.array_equal(
        sd.ours(used(tool, 1, 1.0, step_weights=((0.0, 0.5),))), sd.ours(used(tool, 1, 0.5))
    )
    early = sd.ours(used(tool, 1, 5.0, step_weights=((0.0, 1.0), (0.5, 0.0))))
    assert not np.array_equal(early, sd.ours())
    assert not np.array_equal(early, sd.ours(used(tool, 1, 5.0)))
    assert alike(early, sd.theirs("plain", 5.0, [1], until=2))
    weaker = sd.ours(used(tool, 1, 5.0, step_weights=((0.0, 1.0), (0.5, 0.2))))
    assert not np.array_equal(weaker, sd.ours(used(tool, 1, 5.0)))


def test_rows_of_a_batch_keep_their_own_references(sd: Bench) -> None:
    """None, one of several pictures, of two kinds, several strengths, beside LoRA rows: the bytes of each alone."""
    plain, plus = sd.tool("plain"), sd.tool("plus")
    shown = [
        (),
        (used(plain, 1),),
        (used(plain, 2, 0.3),),
        (used(plus, 1),),
        (used(plain, 1, 0.4), used(plus, 2)),
    ]
    pool = [
        replace(one, references=shown[index % 5], width_class=8)
        for index, one in enumerate(make_pool(make_adapters(sd.engine), num=15, steps=3))
    ]
    alone = [sd.engine.submit(one).result().pixels for one in pool]
    draw = random.Random(3)
    for _ in range(8):
        picked = draw.sample(range(len(pool)), 5)
        with sd.engine.paused():
            handles = [sd.engine.submit(pool[index], owner=str(index)) for index in picked]
        for index, handle in zip(picked, handles, strict=True):
            assert np.array_equal(handle.result(60).pixels, alone[index]), index


def test_a_picture_is_encoded_once_whatever_it_is_called(sd: Bench) -> None:
    engine, tool = PictureEngine.load(sd.base), sd.tool("plus")
    requests = [
        PictureRequest(prompt="a cat", seed=index, how=HOW, references=(used(tool, 1 + index % 2, 0.5),))
        for index in range(6)
    ]
    engine.draw(requests, batch=2)
    engine.draw(requests[:1])
    assert engine._drawing.references.num_encoded == 2


def test_nothing_is_left_on_the_network(sd: Bench) -> None:
    sd.ours(used(sd.tool("plus"), 1))
    modules = list(sd.engine.unet.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_what_does_not_fit_fails_alone_and_says_why(sd: Bench, sdxl: Bench, tmp_path: Path) -> None:
    well = PictureRequest(prompt="a cat", seed=1, how=HOW)
    with sd.engine.paused():
        good = sd.engine.submit(well)
        bad = sd.engine.submit(replace(well, references=(used(sdxl.tool("plain"), 1),)))
    with pytest.raises(AdapterError, match="made for the base's family"):
        bad.result(60)
    assert good.result(60).pixels.shape == (64, 64, 3)
    other = load_image_encoder(make_image_encoder(tmp_path / "other", projection_dim=40))
    with pytest.raises(AdapterError, match=r"embedding of width 24.*has 40"):
        ReferenceTool(sd.tool("plain").adapter, other)
