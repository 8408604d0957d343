"""Files from elsewhere: downloads that resume and are checked, archives that cannot leave their folder. No torch."""

import contextlib
import errno
import gzip
import http.client
import io
import os
import re
import shutil
import ssl
import stat
import struct
import tarfile
import time
import urllib.error
import urllib.request
import uuid
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from trust_exp.data.lock import locked
from trust_exp.data.store import file_digest
from trust_exp.errors import UserError
from trust_exp.progress import Bar

MB = 10**6
BLOCK = 2**17
TRIES = 4  # in a row that brought nothing
WAIT_SECONDS = 1.0  # after one that brought nothing; longer after each next one
TAR_BLOCK = 512
PIECE = 2**20  # the most bytes that are read at once
UNPACKED_LIMIT = 400 * 2**30
CHECKSUM = re.compile(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}")
DROPPED = (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException)
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    RuntimeError,  # zipfile's, for encryption and methods of compression that it does not know
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class Remote:
    """A published file.

    Args:
        url: where it is: http, https or file.
        checksum: of its content: ``md5:<hex>`` or ``sha256:<hex>``.
        bytes: its length, None if not known.
        file: its name on disk; None for the one in the url.

    Raises:
        ValueError: if one of them is not of that form.
    """

    url: str
    checksum: str
    bytes: int | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https", "file"):
            raise ValueError(f"a remote file has an url of http, https or file; got {self.url!r}")
        if not CHECKSUM.fullmatch(self.checksum):
            raise ValueError(f"a checksum is md5:<32 hex digits> or sha256:<64 hex digits>; got {self.checksum!r}")
        if self.name in ("", ".", "..") or "/" in self.name:
            raise ValueError(f"{self.url!r} gives no file name; got {self.name!r}")

    @property
    def name(self) -> str:
        """The file's name on disk."""
        return self.file if self.file is not None else PurePosixPath(unquote(urlsplit(self.url).path)).name


def fetch(remote: Remote, folder: str | Path, *, timeout: float = 20.0) -> Path:
    """Download a file into ``folder``, unless it is there with the right checksum; returns its path.

    A partial download is kept in ``<name>.part`` and completed by the next call, also after a kill or Ctrl-C. If
    several processes need the same file, one downloads it and the others wait.

    Args:
        remote: the file to download.
        folder: the target folder; created if needed.
        timeout: seconds without an answer or data after which the connection counts as dropped.

    Raises:
        UserError: naming the file and the reason; a file that is not the published one is deleted.
    """
    folder = Path(folder)
    path = folder / remote.name
    try:
        if _defect(remote, path) is None:  # before the lock, as the folder may be read-only
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f".{remote.name}.lock"):  # without locks the checksum detects a mix of two downloads
            if _defect(remote, path) is not None:
                part = folder / f"{remote.name}.part"
                _download(remote, part, timeout)
                _accept(remote, part, path)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{remote.url} could not be fetched into {folder}: {_reason(error)}") from error
    return path


def _defect(remote: Remote, path: Path) -> str | None:
    """How the file at ``path`` differs from the published one; None if it does not."""
    size = _size(path)
    if size is None:
        return "it is not there"
    if remote.bytes not in (None, size):
        return f"it has {size} bytes and should have {remote.bytes}"
    algorithm, _, published = remote.checksum.partition(":")
    found = file_digest(path, algorithm)
    return None if found == published else f"its {algorithm} is {found} and should be {published}"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _accept(remote: Remote, part: Path, path: Path) -> None:
    if defect := _defect(remote, part):
        part.unlink(missing_ok=True)
        raise UserError(f"{remote.url} is not the published file: {defect}")
    os.replace(part, path)


def _download(remote: Remote, part: Path, timeout: float) -> None:
    """Complete ``part``, over several connections if they drop."""
    in_vain, most = 0, _size(part) or 0
    while remote.bytes is None or _size(part) != remote.bytes:
        try:
            _receive(remote, part, timeout)
            return
        except DROPPED:
            size = _size(part) or 0
            in_vain = in_vain + 1 if size <= most else 0
            most = max(size, most)
            if in_vain == TRIES:
                raise
            time.sleep(WAIT_SECONDS * in_vain)


def _receive(remote: Remote, part: Path, timeout: float) -> None:
    """Append the data of one connection to ``part``, or start again if the server cannot continue."""
    answer, done = _ask(remote, _size(part) or 0, timeout)
    with answer, part.open("ab" if done else "wb") as file:
        coming: int | None = getattr(answer, "length", None)
        total = remote.bytes if coming is None else done + coming
        with contextlib.closing(Bar(f"fetch {remote.name} (MB)", (total or 0) // MB)) as bar:
            while block := answer.read(BLOCK):
                file.write(block)
                done += len(block)
                if remote.bytes is not None and done > remote.bytes:
                    return  # another file, which its length will show: do not fill the disk with it
                bar.update(done // MB)
    if coming is not None and total is not None and done < total:
        raise ConnectionError(f"the connection broke after {done} of {total} bytes")


def _ask(remote: Remote, start: int, timeout: float) -> tuple[Any, int]:
    """The server's answer to a request for all from ``start`` on, and where in the file it begins: there or at 0."""
    try:
        answer = _open(remote.url, start, timeout)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        error.close()
        return _open(remote.url, 0, timeout), 0
    if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
        return answer, 0
    if (answer.headers["Content-Range"] or "").startswith(f"bytes {start}-"):
        return answer, start
    answer.close()
    return _open(remote.url, 0, timeout), 0


def _open(url: str, start: int, timeout: float) -> Any:
    """Open a URL by urllib's handlers of http, https and file only; it follows no redirect to a file."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.FileHandler,
    ):
        opener.add_handler(handler())
    headers = {"User-Agent": "trust_exp"} | ({"Range": f"bytes={start}-"} if start else {})
    return opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)


def _reason(error: BaseException | str) -> str:
    """A failure of the network or the disk in a few words, on one line."""
    if isinstance(error, urllib.error.HTTPError):
        text = f"HTTP {error.code} {error.msg}"
    elif isinstance(error, urllib.error.URLError):
        text = _reason(error.reason)
    elif isinstance(error, TimeoutError):
        text = "the server does not answer"
    else:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def unpack(archive: str | Path, to: str | Path, *, limit: int = UNPACKED_LIMIT) -> Path:
    """Unpack a tar, gzip-compressed tar or zip file as the folder ``to``, which is returned.

    The folder appears by a rename, so it is always complete; an existing one that is not empty is kept. Plain
    files and folders only: archives of data need no links.

    Args:
        archive: its kind follows from its first bytes, not from its name.
        to: the new folder; folders above it are created if needed.
        limit: the most bytes that its files may have together.

    Raises:
        UserError: if the archive is damaged or would write outside of ``to``, holds links or too much, or if the
            folder cannot be written.
    """
    archive, to = Path(archive), Path(to)
    # Not tempfile.mkdtemp, whose folder only its owner may read: data are often shared.
    temporary = to.with_name(f".{to.name}.{uuid.uuid4().hex}")
    try:
        if to.is_dir() and any(to.iterdir()):
            return to
        bar = Bar(f"unpack {archive.name} (MB)", archive.stat().st_size // MB)
        with contextlib.closing(bar), archive.open("rb") as file:
            temporary.mkdir(parents=True)
            unpack_here = _unzip if file.peek(2)[:2] == b"PK" else _untar
            unpack_here(file, temporary, _Allowance(archive, limit), bar)
        _publish(temporary, to)
    except UserError:
        raise
    except DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{archive} is damaged or not an archive of tar, tar.gz or zip: {reason}") from error
    except OSError as error:
        raise UserError(f"{archive} could not be unpacked as {to}: {_reason(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return to


@dataclass
class _Allowance:
    """Judges the members of an archive before they are written."""

    archive: Path
    limit: int
    total: int = 0

    def check(self, name: str, size: int, *, plain: bool) -> None:
        unsafe = f"{self.archive} is not safe to unpack: its member {name!r}"
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
            raise UserError(f"{unsafe} lies outside of its folder")
        if not plain:
            raise UserError(f"{unsafe} is neither a file nor a folder")
        self.total += size
        if self.total > self.limit:
            raise UserError(f"{self.archive} is not safe to unpack: its files have more than {self.limit} bytes")


class _Pieces:
    """A stream for tarfile, which reads contents in pieces and only names as a whole, as long as a header says."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.seek, self.tell = stream, stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= PIECE:
            raise tarfile.ReadError(f"it announces a name of {size} bytes")
        piece: bytes = self.stream.read(size)
        return piece


def _untar(file: io.BufferedReader, to: Path, allowance: _Allowance, bar: Bar) -> None:
    with contextlib.ExitStack() as stack:
        packed = file.peek(2)[:2] == b"\x1f\x8b"
        stream: Any = stack.enter_context(gzip.GzipFile(fileobj=file)) if packed else file
        pieces: Any = _Pieces(stream)
        tar = stack.enter_context(tarfile.open(fileobj=pieces, mode="r:"))
        for member in tar:
            allowance.check(member.name, member.size, plain=member.isreg() or member.isdir())
            tar.extract(member, to, filter="data")
            bar.update(file.tell() // MB)
        # tarfile takes a cut between members, or a header that makes no sense, for the end of the archive.
        stream.seek(tar.offset)
        if stream.read(TAR_BLOCK) != bytes(TAR_BLOCK):
            raise tarfile.ReadError("its end is missing")
        while stream.read(BLOCK):  # gzip's checksum comes last
            pass


def _unzip(file: io.BufferedReader, to: Path, allowance: _Allowance, bar: Bar) -> None:
    with zipfile.ZipFile(file) as zipped:
        members = zipped.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive was not made under Unix
            allowance.check(member.filename, member.file_size, plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
        for member in members:
            zipped.extract(member, to)
            bar.update(file.tell() // MB)


def _publish(temporary: Path, to: Path) -> None:
    try:
        os.rename(temporary, to)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise  # otherwise another process was first, and its folder is complete
