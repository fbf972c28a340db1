"""A served picture carries its request, adapters, policy and software, signed where there is a certificate."""

from pathlib import Path

import pytest
from PIL import Image

from detour.errors import ConfigError
from detour.generation.engine import PictureEngine
from detour.generation.signing import open_signer
from detour.serving.settings import ProvenanceSpec, load_serve_spec
from detour.verbs.draw.provenance import show_picture, verify_picture
from tests.certificates import write_certificates
from tests.serving.conftest import serving
from tests.serving.test_reviews import HoldsAll


def test_a_served_picture_is_signed_has_a_sidecar_and_can_be_drawn_again(
    engine: PictureEngine, shelf_folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    pytest.importorskip("c2pa")
    chain, key, _, _ = write_certificates(tmp_path / "pem")
    with serving(engine, shelf_folder, tmp_path / "state", signer=open_signer(chain, key)) as served:
        body = {"prompts": ["a cat"], "steps": 2, "seed": 5, "adapters": [{"name": "style", "strength": 0.5}]}
        (picture,) = served.done(served.job(body)["id"])["pictures"]
        path = tmp_path / "fetched.png"
        path.write_bytes(served.http.get(picture["url"]).content)
        (tmp_path / "fetched.json").write_bytes(served.http.get(picture["url"] + "/sidecar").content)
        assert served.http.get("/v1/pictures/none/sidecar").status_code == 404
    report = show_picture(path)
    assert report.signature is not None
    assert (report.signature.state, report.signature.signer) == ("valid", "Operator")
    assert (report.source, report.sidecar) == ("text", "same pixels")
    assert report.metadata is not None
    assert (report.metadata.policy, report.metadata.adapters[0].weight) == ("", 0.5)
    found = verify_picture(path, base=str(tiny_base), files=shelf_folder, device="cpu")
    assert found.state == "equal", found.cause


def test_the_invisible_mark_of_the_settings_is_in_every_picture_and_its_key_in_no_file(
    engine: PictureEngine, shelf_folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    provenance = ProvenanceSpec(mark="the operator's key")
    with serving(engine, shelf_folder, tmp_path / "state", provenance=provenance) as served:
        (picture,) = served.done(served.job({"prompts": ["a cat"], "steps": 2, "seed": 5})["id"])["pictures"]
        path = tmp_path / "fetched.png"
        path.write_bytes(served.http.get(picture["url"]).content)
        assert b"operator's" not in path.read_bytes()
    said = show_picture(path)
    assert said.mark is None
    assert "--mark KEY looks for it" in said.lines()[-1]
    shown = show_picture(path, mark="the operator's key")
    assert shown.mark is not None
    assert shown.mark.is_found
    assert "is in it" in shown.lines()[-1]
    other = show_picture(path, mark="another")
    assert other.mark is not None
    assert not other.mark.is_found
    again = verify_picture(path, base=str(tiny_base), device="cpu", mark="the operator's key")
    assert again.state == "equal", again.cause
    assert "name it with --mark" in verify_picture(path, base=str(tiny_base), device="cpu").cause
    with Image.open(path) as image:
        image.save(tmp_path / "copy.jpg", quality=90)
    copy = show_picture(tmp_path / "copy.jpg", mark="the operator's key")
    assert copy.mark is not None
    assert copy.mark.is_found
    assert (copy.metadata, copy.source) == (None, "none")


def test_the_sidecar_goes_with_its_picture(engine: PictureEngine, shelf_folder: Path, tmp_path: Path) -> None:
    with serving(engine, shelf_folder, tmp_path / "state", policy=HoldsAll()) as served:
        job = served.done(served.job({"prompts": ["a cat", "a dog"], "steps": 2})["id"])
        places = served.spec.state / "pictures"
        assert len(list(places.glob("*.json"))) == 2
        served.post(f"/v1/reviews/{job['id']}/0", {"release": False})
        assert len(list(places.glob("*.json"))) == 1
        served.service.store.clean(job_s=1000.0, max_bytes=0)
        assert list(places.iterdir()) == []


def test_the_certificate_of_a_settings_file_stands_beside_it(tmp_path: Path) -> None:
    config = tmp_path / "serve.toml"
    config.write_text('[provenance]\nc2pa_cert = "chain.pem"\nc2pa_key = "key.pem"\n')
    spec = load_serve_spec(config, {})
    assert spec.provenance.c2pa_cert == tmp_path / "chain.pem"
    with pytest.raises(ConfigError, match="belong together"):
        open_signer(spec.provenance.c2pa_cert, None)
