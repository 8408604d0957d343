"""A lock between processes, over ``flock``.

Not filelock: it polls where flock waits in the kernel; and where a file system has no locks it fails, or falls back to
a file that a killed process leaves locked.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock file ``path``; waits for other processes. The lock ends with the process, even if that is killed.

    Yields whether the file system has locks; without them this does not wait.

    Raises:
        OSError: if the file cannot be created.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(file)
