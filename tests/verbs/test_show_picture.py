"""A picture says how it was made, can be drawn again, and tells when somebody changed it."""

import json
import shutil
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from click.testing import CliRunner
from PIL import Image

from detour.adapter_files.writing import write_adapter
from detour.bases.base import open_base
from detour.cli.main import cli
from detour.errors import ConfigError, DataError, NotReproduced
from detour.generation.engine import PictureEngine
from detour.generation.png import read_png_metadata, save_png
from detour.generation.sidecar import read_sidecar, sidecar_of
from detour.specs.generation import GenerateSpec, PictureSpec
from detour.verbs.draw import provenance
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.draw.provenance import Redrawing, show_picture, verify_picture
from tests.certificates import write_certificates
from tests.generation.pool import make_adapters


@pytest.fixture(scope="module")
def folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures: a plain one, and one with all that decides pixels; with what they were drawn from."""
    place = tmp_path_factory.mktemp("provenance")
    base = open_base(str(tiny_base))
    adapter = make_adapters(PictureEngine.load(base, prompts="written"))["rank2"]
    write_adapter(place / "parts" / "style.safetensors", adapter, family=base.family)
    pixels = np.random.default_rng(0).integers(0, 255, (80, 72, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(place / "parts" / "start.png")
    steering = {"version": 1, "name": "away", "latent": {"concept": "a crown", "strength": "strong"}}
    (place / "policy.toml").write_text(tomli_w.dumps(steering))
    common = {"base": str(tiny_base), "device": "cpu"}
    plain = GenerateSpec(prompts=("a plain house",), seed=3, picture=PictureSpec(steps=2), **common)
    saving = PictureSpec(steps=4, guidance_scale=20, guidance_interval=(0.0, 0.5), deep_every=2)
    saved = plain.model_copy(update={"picture": saving})
    full = GenerateSpec(
        prompts=("a (red:1.3) house",),
        seed=4,
        loras=(f"{place / 'parts' / 'style.safetensors'}:0.7",),
        lora_steps=((0.0, 1.0), (0.5, 0.5)),
        start=str(place / "parts" / "start.png"),
        strength=0.8,
        policy=str(place / "policy.toml"),
        width_class=8,
        picture=PictureSpec(
            steps=10, scheduler="ddim", eta=0.3, negative_prompt="blurry", guidance_scale=4.0
        ),
        **common,
    )
    for name, spec in (("plain", plain), ("full", full), ("saved", saved)):
        (made,) = generate_pictures(spec, out=place / name).files
        made.path.rename(place / f"{name}.png")
        sidecar_of(made.path).rename(place / f"{name}.json")
    return place


def again(folder: Path, name: str, tiny_base: Path) -> Redrawing:
    return verify_picture(folder / name, base=str(tiny_base), files=folder / "parts", device="cpu")


def test_a_picture_and_its_sidecar_say_the_same_in_plain_words(folder: Path) -> None:
    report = show_picture(folder / "full.png")
    beside = read_sidecar(folder / "full.png")
    assert beside is not None
    assert beside.picture == report.metadata == read_png_metadata(folder / "full.png")
    assert (report.source, report.sidecar, report.signature) == ("text", "same pixels", None)
    told = "\n".join(report.lines())
    assert report.metadata is not None
    use = report.metadata.adapters[0]
    for words in (
        "Prompt: a (red:1.3) house", "Negative prompt: blurry", "Seed 4, 10 steps of DDIM, guidance scale 4,",
        f"Adapter 'style' at strength 0.7 (SHA-256 {use.sha256})", "Safety policy: away@1:", "width class 8",
        "Steered away from 'a crown' (strong)", "strength 0.8", "Drawn by detour", "no C2PA manifest",
    ):  # fmt: skip
        assert words in told, told


def test_each_picture_can_be_drawn_again_to_the_pixel(folder: Path, tiny_base: Path) -> None:
    assert again(folder, "plain.png", tiny_base).state == "equal"
    assert again(folder, "saved.png", tiny_base).state == "equal"
    assert again(folder, "full.png", tiny_base) == Redrawing(
        state="equal", largest_difference=0, differing_share=0.0
    )


def test_what_saves_time_is_told_and_decides_the_pixels(
    folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    report = show_picture(folder / "saved.png")
    told = report.lines()
    assert "Guidance from 0% to 50% of the steps alone." in told
    assert "The network's deeper blocks ran in one of 2 steps." in told
    pixels = np.asarray(Image.open(folder / "saved.png"))
    assert report.metadata is not None
    for key, other in (("guidance_interval", (0.0, 1.0)), ("deep_every", 1)):
        save_png(tmp_path / f"{key}.png", pixels, report.metadata.model_copy(update={key: other}))
        assert again(tmp_path, f"{key}.png", tiny_base).state == "differs"


def test_a_change_of_pixels_or_of_the_text_is_told(folder: Path, tiny_base: Path, tmp_path: Path) -> None:
    told = read_png_metadata(folder / "plain.png")
    assert told is not None
    pixels = np.asarray(Image.open(folder / "plain.png")).copy()
    pixels[3, 5, 1] ^= 64
    save_png(tmp_path / "changed.png", pixels, told)
    shutil.copy(folder / "plain.json", tmp_path / "changed.json")
    assert show_picture(tmp_path / "changed.png").sidecar == "other pixels"
    found = again(tmp_path, "changed.png", tiny_base)
    assert (found.state, found.largest_difference) == ("differs", 64)
    assert found.differing_share == pytest.approx(1 / 64**2)
    assert "differs by up to 64 of 255" in found.line()
    pixels[3, 5, 1] ^= 64
    save_png(tmp_path / "lied.png", pixels, told.model_copy(update={"seed": 9}))
    assert again(tmp_path, "lied.png", tiny_base).state == "differs"


def test_without_its_text_the_sidecar_tells_and_without_both_nothing_does(
    folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    Image.open(folder / "plain.png").save(tmp_path / "bare.png")
    assert show_picture(tmp_path / "bare.png").source == "none"
    assert again(tmp_path, "bare.png", tiny_base).line().startswith("Cannot be drawn again: nothing says")
    shutil.copy(folder / "plain.json", tmp_path / "bare.json")
    report = show_picture(tmp_path / "bare.png")
    assert (report.source, report.sidecar) == ("sidecar", "same pixels")
    (tmp_path / "bare.json").write_text("{}")
    with pytest.raises(DataError, match="no sidecar of a picture"):
        show_picture(tmp_path / "bare.png")
    (tmp_path / "no.png").write_text("text")
    with pytest.raises(DataError, match="no PNG file"):
        show_picture(tmp_path / "no.png")


def test_what_is_missing_is_named(folder: Path, tiny_base: Path, tmp_path: Path) -> None:
    def cause(**values: object) -> str:
        name = str(values.pop("name", "full.png"))
        found = verify_picture(folder / name, **{"base": str(tiny_base), "device": "cpu", **values})  # type: ignore[arg-type]
        assert found.state == "cannot"
        return found.cause

    assert "adapter 'style' is needed" in cause()
    assert "pass --files" in cause()
    assert "nothing in" in cause(files=tmp_path)
    shutil.copy(folder / "parts" / "style.safetensors", tmp_path / "other-name.safetensors")
    assert "the picture that it began as is needed" in cause(files=tmp_path)
    assert "say where that is with --base" in cause(name="plain.png", base=None)
    assert "was drawn by base" in cause(name="plain.png", base="pocket")


def test_the_command_says_equal_and_fails_where_it_is_not(folder: Path, tiny_base: Path) -> None:
    where = ["--base", str(tiny_base), "--files", str(folder / "parts")]
    shown = CliRunner().invoke(cli, ["show", str(folder / "full.png"), "--verify", *where])
    assert shown.exit_code == 0, shown.output
    assert "Drawn again: every pixel is equal." in shown.output
    failed = CliRunner().invoke(
        cli, ["show", str(folder / "full.png"), "--verify", "--base", str(tiny_base), "--json"]
    )
    assert isinstance(failed.exception, NotReproduced)
    assert json.loads(failed.stdout)["again"]["state"] == "cannot"


def test_the_command_reads_the_picture_and_its_sidecar_once(
    folder: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def counted(name: str) -> None:
        read = getattr(provenance, name)

        def once(*given: object, **values: object) -> object:
            reads.append(name)
            return read(*given, **values)

        monkeypatch.setattr(provenance, name, once)

    for name in ("read_bytes", "open_png", "read_sidecar", "read_png_metadata", "read_manifest"):
        counted(name)
    shown = CliRunner().invoke(cli, ["show", str(folder / "full.png"), "--verify", "--base", str(tiny_base)])
    assert isinstance(shown.exception, NotReproduced)
    assert sorted(reads) == ["open_png", "read_bytes", "read_manifest", "read_png_metadata", "read_sidecar"]


def test_a_signed_picture_is_valid_and_not_trusted_and_a_change_is_noticed(
    folder: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("c2pa")
    chain, key, authority, _ = write_certificates(tmp_path / "pem")
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("somebody was asked over the network"))
    spec = GenerateSpec(
        prompts=("a plain house",), seed=3, picture=PictureSpec(steps=2), base=str(tiny_base), device="cpu",
        c2pa_cert=str(chain), c2pa_key=str(key),
    )  # fmt: skip
    (made,) = generate_pictures(spec, out=tmp_path / "signed").files
    report = show_picture(made.path)
    assert report.signature is not None
    assert (report.signature.state, report.signature.signer) == ("valid", "Operator")
    assert report.signature.problems == ("signingCredential.untrusted",)
    assert "valid, not trusted" in report.lines()[-1]
    assert report.metadata == read_png_metadata(folder / "plain.png")
    trusted = show_picture(made.path, trust=authority).signature
    assert trusted is not None
    assert trusted.state == "trusted"
    assert again(made.path.parent, made.path.name, tiny_base).state == "equal"
    data = made.path.read_bytes()
    text = b"tEXt" + b"Comment\0written after signing"
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    made.path.write_bytes(data[:-12] + chunk + data[-12:])
    changed = show_picture(made.path).signature
    assert changed is not None
    assert changed.state == "invalid"
    assert "assertion.dataHash.mismatch" in changed.problems


def test_a_certificate_that_cannot_sign_is_refused_before_anything_is_drawn(
    tiny_base: Path, tmp_path: Path
) -> None:
    pytest.importorskip("c2pa")
    chain, key, _, alone = write_certificates(tmp_path)
    _, other_key, _, _ = write_certificates(tmp_path / "other")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for cert, secret, said in (
        (alone, key, "self-signed"), (chain, None, "belong together"), (chain, text, "cannot be read"),
        (text, key, "cannot sign"), (chain, other_key, "cannot sign"),
    ):  # fmt: skip
        spec = GenerateSpec(
            prompts=("a house",), base=str(tiny_base), c2pa_cert=str(cert), c2pa_key=secret and str(secret)
        )
        with pytest.raises(ConfigError, match=said):
            generate_pictures(spec, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
