import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from detour.bases.base import open_base
from detour.bases.names import NO_T5
from detour.errors import BaseError, ConfigError

COMMIT = "3f" * 20


@pytest.fixture
def hub(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """A hub that answers with the tiny base and notes what it was asked."""
    folder = tmp_path / "models--owner--tiny-sd" / "snapshots" / COMMIT
    shutil.copytree(tiny_base, folder)
    calls: list[dict[str, object]] = []

    def snapshot_download(repo_id: str, **options: object) -> str:
        calls.append({"repo_id": repo_id, **options})
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_a_hub_id_is_fetched_at_its_revision_and_the_commit_is_kept(hub: list[dict[str, object]]) -> None:
    base = open_base("owner/tiny-sd", revision="main")
    assert (hub[0]["repo_id"], hub[0]["revision"]) == ("owner/tiny-sd", "main")
    assert (base.identity, base.revision) == ("tiny-sd", COMMIT)
    base.require_weights()


def test_only_what_is_read_is_fetched(hub: list[dict[str, object]]) -> None:
    from fnmatch import fnmatch

    open_base("owner/tiny-sd")

    def fetched(path: str) -> bool:
        allow, ignore = hub[0]["allow_patterns"], hub[0]["ignore_patterns"]
        assert isinstance(allow, list)
        assert isinstance(ignore, list)
        return any(fnmatch(path, pattern) for pattern in allow) and not any(fnmatch(path, p) for p in ignore)

    for path in (
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "text_encoder_2/model.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "scheduler/scheduler_config.json",
    ):
        assert fetched(path), path
    for path in (
        "v1-5-pruned.safetensors",
        "v1-5-pruned.ckpt",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/flax_model.msgpack",
    ):
        assert not fetched(path), path


def test_a_t5_that_is_left_out_is_not_fetched(hub: list[dict[str, object]]) -> None:
    with pytest.raises(ConfigError, match="has no T5"):  # the folder that this hub answers with is SD 1
        open_base(f"owner/tiny-sd{NO_T5}")
    assert hub[0]["repo_id"] == "owner/tiny-sd"
    assert "text_encoder_3/*.safetensors" in str(hub[0]["ignore_patterns"])
    open_base("owner/tiny-sd")
    assert "text_encoder_3" not in str(hub[1]["ignore_patterns"])


def test_half_precision_is_fetched_where_there_is_nothing_else(
    hub: list[dict[str, object]], tmp_path: Path
) -> None:
    weights = next(tmp_path.glob("models--*/snapshots/*/unet/*.safetensors"))
    weights.unlink()
    open_base("owner/tiny-sd")
    assert len(hub) == 2
    assert "*.fp16.safetensors" in str(hub[0]["ignore_patterns"])
    assert "fp16" not in str(hub[1]["ignore_patterns"])


def test_inspecting_fetches_settings_alone(hub: list[dict[str, object]]) -> None:
    from detour.verbs.explain.inspection import inspect_base

    assert inspect_base("owner/tiny-sd", ranks=(4,)).identity == "tiny-sd"
    (call,) = hub
    assert ".safetensors" not in str(call["allow_patterns"])


def test_offline_with_an_empty_cache_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BaseError) as caught:
        open_base("owner/tiny-sd", revision="v2")
    message = str(caught.value)
    assert "not in the local cache" in message
    assert "HF_HUB_OFFLINE" in message
    assert "'v2'" in message
    assert "\n" not in message


def test_offline_by_environment_is_honoured(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    code = (
        "from detour.bases.base import open_base\nfrom detour.errors import BaseError\n"
        "try:\n    open_base('owner/tiny-sd')\nexcept BaseError as error:\n    print(error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "HF_HUB_OFFLINE forbids fetching it" in run.stdout


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RepositoryNotFoundError, "neither a folder here nor a model on the hub"),
        (HfHubHTTPError, "nor could it be fetched"),
        (LocalEntryNotFoundError, "nor could it be fetched"),
        (OSError, "nor could it be fetched"),
    ],
)
def test_what_the_hub_answers_becomes_one_line(
    error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        instance = error.__new__(error)
        Exception.__init__(instance, "first line\nsecond line")
        raise instance

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(BaseError, match=words) as caught:
        open_base("owner/nothing")
    assert "\n" not in str(caught.value)
