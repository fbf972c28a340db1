"""Pushing to a hub that is faked: what goes up, what never does, and what a failure leaves."""

import functools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import yaml

from detour.adapter_files import read_adapter
from detour.cli.main import run as cli
from detour.errors import ConfigError, HubError, RunError
from detour.specs import load_run_spec
from detour.verbs.train.hub_upload import check_push, gather_files, push_run
from detour.verbs.train.run import train_adapter
from tests.verbs.local_hub import local_hub
from tests.verbs.photos import make_photos, quick_spec


class Hub:
    """Remembers what a client did; ``fails`` raises from the commit."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.private: bool | None = None
        self.fails = False

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        self.private = private
        return f"https://hub.example/{repo}"

    def create_commit(self, repo: str, operations: list[Any], *, commit_message: str) -> None:
        if self.fails:
            raise OSError("connection\nlost")
        self.files = {one.path_in_repo: one.path_or_fileobj.getvalue() for one in operations}

    def repo_info(self, repo: str) -> Any:
        return SimpleNamespace(private=self.private)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    return hub


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pushed")
    photos = make_photos(place / "photos")
    spec = quick_spec(tiny_base, photos, train__steps=1, data__trigger="sks: style", sample__every=1)
    return train_adapter(spec, runs=place / "runs").run_folder


def test_what_goes_up_is_the_adapter_its_card_and_its_proof_and_no_path(run: Path, hub: Hub) -> None:
    result = push_run(run, "ada/quick")
    assert result.private
    assert result.url == "https://hub.example/ada/quick"
    assert set(hub.files) == {
        "quick.safetensors",
        "quick.json",
        "quick.preview.png",
        "README.md",
        "proof.json",
        "report.html",
        "resolved.toml",
        "samples/sheet.png",
    }
    everything = b"\n".join(hub.files.values())
    for private in (run.parent, Path.home(), run.parent.parent / "photos"):
        assert str(private).encode() not in everything
    for name in ("quick.safetensors", "quick.json", "quick.preview.png"):
        assert hub.files[name] == (run / name).read_bytes()
    assert json.loads(hub.files["quick.json"])["activation text"] == "sks: style"


@pytest.mark.parametrize("public", [False, True])
def test_the_hubs_own_client_pushes_the_same_files_over_http(
    run: Path, monkeypatch: pytest.MonkeyPatch, public: bool
) -> None:
    with local_hub() as hub:
        client = functools.partial(huggingface_hub.HfApi, endpoint=hub.url, token=hub.token)
        monkeypatch.setattr(huggingface_hub, "HfApi", client)
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: hub.token)
        result = push_run(run, "ada/style", public=public)
    assert result.private is hub.private is not public
    assert result.url == f"{hub.url}/ada/style"
    assert hub.files == gather_files(run)
    assert (run / "quick.safetensors").read_bytes() in hub.objects.values()


def test_a_hub_that_refuses_the_login_leaves_the_run_and_says_so(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_hub() as hub:
        monkeypatch.setattr(
            huggingface_hub, "HfApi", functools.partial(huggingface_hub.HfApi, endpoint=hub.url, token="x")
        )
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: "x")
        with pytest.raises(HubError, match=r"could not be pushed \(.*401.*try again with: detour push"):
            push_run(run, "ada/style")
    assert hub.files == {}


def test_the_card_has_a_header_that_the_hub_reads(run: Path, hub: Hub) -> None:
    push_run(run, "ada/quick", public=True)
    assert hub.private is False
    _, header, card = hub.files["README.md"].decode().split("---\n", 2)
    facts = yaml.safe_load(header)
    assert facts["instance_prompt"] == "sks: style"
    assert "lora" in facts["tags"]
    assert "base_model" not in facts  # the base is a folder of this machine
    assert card.lstrip().startswith("# quick")


def test_files_of_new_words_go_up_too(run: Path, hub: Hub, tmp_path: Path) -> None:
    copied = tmp_path / "quick"
    shutil.copytree(run, copied)
    for name in ("quick-tokens-1.safetensors", "quick-tokens-2.safetensors", "other-tokens.safetensors"):
        (copied / name).write_bytes(name.encode())
    push_run(copied, "ada/quick")
    assert hub.files["quick-tokens-2.safetensors"] == b"quick-tokens-2.safetensors"
    assert {name for name in hub.files if "tokens" in name} == {
        "quick-tokens-1.safetensors",
        "quick-tokens-2.safetensors",
    }


def test_a_whole_base_is_refused_before_the_run(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli(
            [
                "train",
                str(make_photos(tmp_path / "photos", 2)),
                "--method",
                "full",
                "--push-to-hub",
                "ada/quick",
            ]
        )
    assert stop.value.code == ConfigError.exit_code
    assert "leaves a whole base and no adapter" in capsys.readouterr().err
    assert hub.private is None


def test_the_settings_that_go_up_can_be_read_back(run: Path, hub: Hub, tmp_path: Path) -> None:
    push_run(run, "ada/quick")
    (tmp_path / "resolved.toml").write_bytes(hub.files["resolved.toml"])
    spec = load_run_spec(config=tmp_path / "resolved.toml")
    assert (spec.data.source, spec.base.name, spec.adapter.rank) == ("photos", "tiny", 2)


def test_a_failure_says_how_to_try_again_and_leaves_the_run(run: Path, hub: Hub) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    hub.fails = True
    with pytest.raises(HubError, match=r"connection lost.*whole in .*quick; try again with: detour push"):
        push_run(run, "ada/quick")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_path_in_a_file_stops_the_push(run: Path, hub: Hub, tmp_path: Path) -> None:
    copy = tmp_path / "quick"
    shutil.copytree(run, copy)
    proof = json.loads((copy / "proof.json").read_text())
    proof["reasons"] = [f"as in {tmp_path}/notes"]
    (copy / "proof.json").write_text(json.dumps(proof))
    with pytest.raises(RunError, match=r"proof\.json: names .*nothing was pushed"):
        push_run(copy, "ada/quick")
    assert hub.files == {}


def test_an_unfinished_run_is_not_pushed(run: Path, hub: Hub, tmp_path: Path) -> None:
    copy = tmp_path / "quick"
    shutil.copytree(run, copy)
    (copy / "proof.json").unlink()
    with pytest.raises(RunError, match=r"has no proof\.json yet. Finish it first: detour train --resume"):
        gather_files(copy)


@pytest.mark.parametrize("name", ["quick", "a/b/c", "../x", "a/", "ada/quick.", "ada/my style"])
def test_names_that_the_hub_refuses_are_refused_before_the_run(hub: Hub, name: str) -> None:
    with pytest.raises(ConfigError, match="Write OWNER/NAME"):
        check_push(name)


def test_nobody_logged_in_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ConfigError, match="hf auth login"):
        check_push("ada/quick")


def test_the_adapter_that_went_up_is_the_one_that_was_proved(run: Path, hub: Hub, tmp_path: Path) -> None:
    push_run(run, "ada/quick")
    (tmp_path / "x.safetensors").write_bytes(hub.files["quick.safetensors"])
    assert (
        read_adapter(tmp_path / "x.safetensors").layers.keys()
        == read_adapter(run / "quick.safetensors").layers.keys()
    )
