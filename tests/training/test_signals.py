"""Which signals end a run in order, and what a second one does."""

import os
import signal

import jax
import pytest

from ddpm_jax.training.signals import stop_signals

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers():
    """As Python has them; restored after the test."""
    before = {x: signal.getsignal(x) for x in STOPS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPS)
def test_the_first_signal_asks_the_run_to_stop(number):
    before = {x: signal.getsignal(x) for x in STOPS}
    with stop_signals() as stop:
        assert not stop.asked(1)
        os.kill(os.getpid(), number)
        assert stop.asked(2) and stop.by == number
        others = {x: signal.getsignal(x) for x in STOPS if x != signal.SIGHUP}
        assert others == {x: before[x] for x in others}  # a second one acts as usual
    assert {x: signal.getsignal(x) for x in STOPS} == before


def test_a_terminal_that_closes_may_say_so_twice():
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)  # would end this process
        assert stop.by == signal.SIGHUP
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.by == signal.SIGTERM


def test_under_nohup_a_run_does_not_hear_of_its_terminal():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.asked(1)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_one_of_many_hands_it_on(monkeypatch):
    """JAX's runtime takes SIGTERM and tells the others."""
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    got = []
    signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    for number in (signal.SIGINT, signal.SIGHUP):
        with stop_signals() as stop:
            os.kill(os.getpid(), number)
            assert stop.by is None
    assert got == [signal.SIGTERM, signal.SIGTERM]
