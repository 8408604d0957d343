"""Files that a reader finds whole, and that a power cut leaves whole. Imports no torch."""

import errno
import os
from pathlib import Path


def put(part: Path, path: Path) -> None:
    """Rename a finished file to ``path``: a reader, also one after a power cut, sees the old file or the new one.

    The file is synced before, so that the new name never has half of it, and its folder after, so that what is
    reported done is done.
    """
    sync(part)
    os.replace(part, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network disks sync files alone
            raise
    finally:
        os.close(descriptor)
