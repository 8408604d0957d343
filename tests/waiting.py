"""Waiting for events, as no test may depend on how busy the machine is."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Found = TypeVar("Found")
PATIENCE = 1000  # seconds; only what hangs takes that long


def wait_for(happened: Callable[[], Found], process: Any = None) -> Found:
    """What ``happened`` returns as soon as that is true; fails if ``process`` ends first."""
    deadline = time.monotonic() + PATIENCE
    while not (found := happened()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; without an init the dead stay as zombies."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stop(pid: int) -> None:
    """Stop a process, and wait until it stands still: of two signals that wait, it would take SIGTERM first."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TZ")


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal was sent to a process that has not taken it yet; False for one that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith(("SigPnd", "ShdPnd")) and int(line.split()[1], 16) >> (number - 1) & 1 for line in lines)
