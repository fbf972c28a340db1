import pytest
from hypothesis import given
from hypothesis import strategies as st

from detour.errors import ConfigError
from detour.generation.strength import check_step_weights, parse_step_weights, weight_at


def test_halves_are_told_apart_at_the_middle_step() -> None:
    weights = parse_step_weights("0=1, 0.5=0.25")
    assert weights == ((0.0, 1.0), (0.5, 0.25))
    assert [weight_at(weights, done, 4) for done in range(4)] == [1.0, 1.0, 0.25, 0.25]
    assert [weight_at(weights, done, 5) for done in range(5)] == [1.0, 1.0, 1.0, 0.25, 0.25]


@given(st.integers(1, 200))
def test_thirds_share_out_every_step(total: int) -> None:
    thirds = ((0.0, 1.0), (1 / 3, 2.0), (2 / 3, 3.0))
    seen = [weight_at(thirds, done, total) for done in range(total)]
    assert seen == sorted(seen)
    assert seen[0] == 1.0
    counts = [seen.count(float(third)) for third in (1, 2, 3)]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("text", ["0.2=1", "0=1,0.5=0,0.4=1", "0=1,1=0", "0=x", "0", "", "0=nan", "0=1,0=2"])
def test_what_leaves_steps_open_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="step weights"):
        parse_step_weights(text)


def test_pairs_from_json_are_checked_alike() -> None:
    assert check_step_weights(((0.0, 1.0),)) == ((0.0, 1.0),)
    with pytest.raises(ConfigError, match="begin at share 0"):
        check_step_weights(((0.5, 1.0),))
