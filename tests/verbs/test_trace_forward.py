import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from detour.bases.base import open_base
from detour.cli.main import cli
from detour.errors import ConfigError
from detour.verbs.explain.forward_figure import plot_forward
from detour.verbs.explain.forward_trace import (
    RANGES,
    ForwardTrace,
    ScheduleName,
    schedule_config,
    trace_forward,
)
from tests.tiny_flow import make_tiny_sd3
from tests.verbs.photos import make_photos


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"), 1) / "0.png"


@pytest.fixture(scope="module")
def trace(tiny_base: Path, photo: Path) -> ForwardTrace:
    return trace_forward(picture=photo, base=str(tiny_base), levels=4)


def test_walk_and_jump_agree_at_every_level(trace: ForwardTrace) -> None:
    assert [level.timestep for level in trace.levels] == [0, 333, 666, 999]
    assert trace.largest_difference < 1e-10
    assert max(level.largest_difference for level in trace.levels) == trace.largest_difference


def test_variance_is_that_of_the_formula_and_not_one(trace: ForwardTrace) -> None:
    for level in trace.levels:
        share = level.alpha_cumprod
        assert level.variance_expected == pytest.approx(share * trace.clean_variance + 1 - share)
        assert level.variance == pytest.approx(level.variance_expected, rel=0.03)
    assert abs(trace.levels[0].variance - 1) > 0.1  # these latents' own variance is not one
    assert trace.levels[-1].snr == pytest.approx(0.0047 / 0.9953, rel=0.02)


def test_another_schedule_is_walked_too_and_pure_noise_has_no_way_back(tiny_base: Path, photo: Path) -> None:
    trace = trace_forward(
        picture=photo, base=str(tiny_base), levels=3, schedule="linear", zero_terminal_snr=True
    )
    assert trace.schedule == "linear 0.0001 to 0.02, zero terminal SNR"
    assert trace.levels[-1].alpha_cumprod == 0.0
    assert trace.largest_difference < 1e-10
    assert [level.way_back for level in trace.levels] == [True, True, False]
    assert trace.caption == "picture 0"


@pytest.mark.parametrize("schedule", ["scaled_linear", "linear", "squaredcos_cap_v2"])
def test_every_schedule_is_walked_to_its_own_end(
    tiny_base: Path, photo: Path, schedule: ScheduleName
) -> None:
    from diffusers import DDPMScheduler

    trace = trace_forward(picture=photo, base=str(tiny_base), levels=2, schedule=schedule)
    start, end = RANGES.get(schedule, (0.0001, 0.02))
    theirs = DDPMScheduler(beta_schedule=schedule, beta_start=start, beta_end=end)
    assert trace.alphas == pytest.approx(theirs.alphas_cumprod.tolist(), abs=1e-5)
    assert trace.largest_difference < 1e-10
    assert trace.schedule.startswith(schedule)


def test_betas_that_make_no_schedule_are_refused(tiny_base: Path) -> None:
    base = open_base(str(tiny_base))
    assert schedule_config(base, "base") == base.scheduler_config()
    with pytest.raises(ConfigError, match=r"betas from 0.0001 to 1.5: need 0 < start <= end < 1"):
        schedule_config(base, "linear", beta_end=1.5)
    with pytest.raises(ConfigError, match="cosine schedule has no betas"):
        schedule_config(base, "squaredcos_cap_v2", beta_start=0.1)


def test_command_writes_figure_and_json(tiny_base: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.png"
    arguments = ["forward", str(photo), "--base", str(tiny_base), "--levels", "2", "--out", str(out)]
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert out.read_bytes().startswith(b"\x89PNG")
    again = ForwardTrace.model_validate(json.loads(result.output))
    with pytest.raises(ConfigError, match="has no pictures"):
        plot_forward(again, tmp_path / "no.png")
    taken = CliRunner().invoke(cli, arguments)
    assert "is there already" in str(taken.exception)


def test_a_flow_walks_a_straight_line_and_goes_back(photo: Path, tmp_path: Path) -> None:
    base = make_tiny_sd3(tmp_path / "base", t5=False)
    trace = trace_forward(picture=photo, base=str(base), levels=4)
    assert [level.timestep for level in trace.levels] == [1, 334, 667, 1000]
    assert trace.schedule == "rectified flow"
    assert trace.largest_difference < 1e-10
    for level in trace.levels:
        sigma = level.timestep / 1000
        expected = (1 - sigma) ** 2 * trace.clean_variance + sigma**2
        assert level.variance_expected == pytest.approx(expected, rel=1e-4)
        assert level.variance == pytest.approx(expected, rel=0.05)
        assert level.snr == pytest.approx((1 - sigma) ** 2 / sigma**2, rel=1e-3)
        assert level.way_back
    assert plot_forward(trace, tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    arguments = [
        "forward",
        str(photo),
        "--base",
        str(base),
        "--levels",
        "4",
        "--out",
        str(tmp_path / "table.png"),
    ]
    said = CliRunner().invoke(cli, arguments).output
    assert "σ" in said
    assert "0.334" in said, "the second level as a share of all timesteps"
    assert "ᾱ" not in said
    with pytest.raises(ConfigError, match="has no betas and ends in pure noise"):
        trace_forward(picture=photo, base=str(base), schedule="linear")
