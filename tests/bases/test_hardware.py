import pytest
import torch

from detour.bases.hardware import drawing_dtype, pick_device, set_threads, torch_dtype
from detour.errors import ConfigError


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_what_is_there(
    cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto") == expected
    assert pick_device("cpu") == "cpu"


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="not usable here"):
        pick_device("cuda:1")
    with pytest.raises(ConfigError, match="not known"):
        pick_device("tpu")


def test_dtypes_by_name() -> None:
    assert torch_dtype("bf16") is torch.bfloat16
    with pytest.raises(ConfigError, match="fp32, bf16 or fp16"):
        torch_dtype("float16")
    assert [drawing_dtype("auto", device) for device in ("cuda:0", "cpu", "mps")] == ["fp16", "fp32", "fp32"]
    assert drawing_dtype("bf16", "cuda") == "bf16"


def test_thread_count_is_set_and_returned() -> None:
    before = torch.get_num_threads()
    try:
        assert set_threads(2) == torch.get_num_threads() == 2
        assert set_threads("auto") == 2
    finally:
        torch.set_num_threads(before)
