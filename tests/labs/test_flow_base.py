"""Labs 1, 2 and 9 on a flow-matching base, by their one line: every solution passes its checks there too.

Lab 3 trains, and needs a base that has learned something: on random weights there is no style to come nearer to.
"""

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch

from detour.bases.names import NO_T5
from detour.labs.checking import check
from detour.labs.index import lab_of
from detour.labs.sources import notebook_of
from detour.labs.workspace import hand_out
from tests.tiny_flow import make_tiny_sd3

pytest.importorskip("jupytext")
pytestmark = pytest.mark.usefixtures("as_it_was")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random weights in the layout of ``pocket-flow``: SD 3 without T5 and without states in its place."""
    return make_tiny_sd3(tmp_path_factory.mktemp("labs") / "base", t5=False, zero_states=0)


@pytest.mark.parametrize("number", [1, 2, 3, 9])
def test_a_lab_is_handed_out_for_pocket_flow(number: int, tmp_path: Path) -> None:
    notebook = hand_out(number, out=tmp_path, base="pocket-flow")
    assert 'BASE = \\"pocket-flow\\"' in notebook.read_text(encoding="utf-8")


def test_a_relative_folder_without_its_t5_is_written_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_tiny_sd3(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    notebook = hand_out(1, out=tmp_path, base=f"base{NO_T5}")
    assert f'BASE = \\"{folder.resolve()}{NO_T5}\\"' in notebook.read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [1, 2, 9])
def test_a_solution_passes_every_check_on_a_flow_base(number: int, base: Path) -> None:
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in notebook_of(lab_of(number), "solution", base=str(base)).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, f"lab {number}", "exec"), names)
    results = check.results(number)
    assert results
    assert all(results.values())
    assert names["opened"].is_flow


def test_what_a_flow_answers_is_turned_into_the_noise_that_was_added(base: Path) -> None:
    """Lab 2's four lines, asked of a network that knows the true velocity."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in notebook_of(lab_of(2), "solution", base=str(base)).cells:
            if cell.cell_type != "code":
                continue
            exec(compile(cell.source, "lab 2", "exec"), names)
            if "stops" in names:
                break
    clean, noise, alphas = names["latents"], names["noise"], names["alphas"]

    class Knowing:
        def predict(self, shown: torch.Tensor, times: torch.Tensor, text: object) -> torch.Tensor:
            level = times.view(1, 1, 1, 1)
            torch.testing.assert_close(shown, (1 - level) * clean + level * noise, rtol=0, atol=1e-5)
            return noise - clean

    names["denoiser"] = Knowing()
    for timestep in (50, 500, 950):
        noisy = alphas[timestep].sqrt() * clean + (1 - alphas[timestep]).sqrt() * noise
        torch.testing.assert_close(names["predict_noise"](noisy, timestep), noise, rtol=0, atol=1e-4)
