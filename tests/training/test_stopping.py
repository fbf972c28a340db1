import os
import signal

import pytest

from detour.errors import Interrupted, Terminated
from detour.training.stopping import stop_request


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_is_a_wish_and_nothing_breaks(number: signal.Signals) -> None:
    with stop_request() as wish:
        assert not wish.wanted
        os.kill(os.getpid(), number)
        assert wish.wanted
        assert wish.error is (Terminated if number == signal.SIGTERM else Interrupted)


def press_ctrl_c(times: int) -> None:
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)


def test_second_ctrl_c_acts_at_once() -> None:
    with stop_request() as wish:
        press_ctrl_c(1)
        with pytest.raises(KeyboardInterrupt):
            press_ctrl_c(1)
    assert wish.wanted


def test_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_request():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
