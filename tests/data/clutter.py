"""What systems and people leave in folders beside the files of a set."""

import shutil
from pathlib import Path


def cluttered(folder: Path, to: Path) -> Path:
    """A copy of a folder, with hidden files, thumbnails of a network disk, links that lead back and some to nothing."""
    shutil.copytree(folder, to)
    for place in [to, *(path for path in to.rglob("*") if path.is_dir())]:
        files = [path for path in place.iterdir() if path.is_file()]
        (place / "@eaDir").mkdir()
        for file in files:
            shutil.copy(file, place / "@eaDir")
            (place / f"._{file.name}").write_bytes(b"\0\5\26\7")  # as macOS writes them on other disks
            (place / f"gone{file.suffix}").unlink(missing_ok=True)
            (place / f"gone{file.suffix}").symlink_to("nothing")
        (place / "loop").symlink_to(".", target_is_directory=True)
        (place / "Thumbs.db").touch()
    (to / "up").symlink_to("..", target_is_directory=True)
    return to
