"""Waiting for a process that is to hear what we are told."""

import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def handing_on() -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Hand signals on to the process started within: a terminal's Ctrl-C reaches this group, and not its own."""
    processes: list[subprocess.Popen[bytes]] = []
    early: list[int] = []  # told before the process was there

    def hand_on(number: int, _: FrameType | None) -> None:
        if not processes:
            early.append(number)
        for process in processes:
            process.send_signal(number)

    def start(words: Sequence[str], **given: Any) -> "subprocess.Popen[bytes]":
        processes.append(subprocess.Popen(words, **given))
        for number in early:
            processes[0].send_signal(number)
        return processes[0]

    before = {number: signal.signal(number, hand_on) for number in FORWARDED}
    try:
        yield start
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
