"""Children that tests fork are ended by SIGTERM, as code that forks relies on (``multiprocessing.Pool``)."""

import os
import signal

import pytest


@pytest.mark.timeout(60)
def test_a_signal_at_once_ends_a_child() -> None:
    """Python discards what a handler should get before the child's interpreter is ready; without a handler it ends."""
    for _ in range(100):
        if (pid := os.fork()) == 0:
            signal.pause()
        os.kill(pid, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
