"""Downloads against a server on the loopback address that does what bad servers do, and archives that mean harm."""

import contextlib
import errno
import fcntl
import gzip
import hashlib
import http.server
import io
import re
import stat
import tarfile
import threading
import zipfile

import numpy as np
import pytest

from tests.waiting import PATIENCE, wait_for
from trust_exp.data import fetch as module
from trust_exp.data.fetch import Remote, fetch, unpack
from trust_exp.errors import UserError

CONTENT = np.random.default_rng(0).bytes(700_001)
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT under any path; ``requests`` keeps the Range of each request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.content, self.ranges, self.wrong_range = CONTENT, True, False
        self.drops = 0  # how many connections break
        self.after = 300_000  # bytes that a connection brings before it breaks
        self.redirect = self.hold = None

    def remote(self, checksum=MD5, **options):
        return Remote(f"http://127.0.0.1:{self.server_port}/some/set.tar.gz", checksum, **options)


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        wanted = self.headers["Range"]
        server.requests.append(wanted)
        if server.hold:
            server.hold.wait(PATIENCE)
        if server.redirect and self.path != server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.end_headers()
            return
        if server.content is None:
            self.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            begin = start + 1 if server.wrong_range else start
            self.send_header("Content-Range", f"bytes {begin}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.drops:
            server.drops -= 1
            body = body[: server.after]
        with contextlib.suppress(OSError):
            self.wfile.write(body)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_waiting_and_no_proxy(monkeypatch):
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def assert_only(folder, content=CONTENT):
    """The folder holds the whole file, and nothing else that a user would see."""
    assert {path.name for path in folder.iterdir()} == {"set.tar.gz", ".set.tar.gz.lock"}
    assert (folder / "set.tar.gz").read_bytes() == content


@pytest.mark.parametrize("checksum", [MD5, SHA256])
@pytest.mark.parametrize("length", [None, len(CONTENT)])
def test_a_file_is_downloaded_once(server, tmp_path, checksum, length):
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        assert fetch(server.remote(checksum, bytes=length), folder) == folder / "set.tar.gz"
    assert_only(folder)
    assert server.requests == [None]


def test_a_file_in_a_read_only_folder_is_kept(server, tmp_path):
    (tmp_path / "set.tar.gz").write_bytes(CONTENT)
    assert fetch(server.remote(), tmp_path) == tmp_path / "set.tar.gz"
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar.gz"]  # no lock was made
    assert server.requests == []


def test_a_damaged_file_is_replaced(server, tmp_path):
    (tmp_path / "set.tar.gz").write_bytes(CONTENT[:-1] + b"?")
    fetch(server.remote(), tmp_path)
    assert_only(tmp_path)


def test_a_file_can_have_another_name_on_disk(server, tmp_path):
    assert fetch(server.remote(file="other.bin"), tmp_path) == tmp_path / "other.bin"


def test_a_file_url_is_copied(tmp_path):
    source = tmp_path / "a set.tar.gz"
    source.write_bytes(CONTENT)
    path = fetch(Remote(source.as_uri(), SHA256), tmp_path / "copy")
    assert path.name == "a set.tar.gz"
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("length", [None, len(CONTENT)])
def test_a_dropped_connection_is_continued(server, tmp_path, length):
    server.drops = 2
    fetch(server.remote(bytes=length), tmp_path)
    assert server.requests == [None, "bytes=300000-", "bytes=600000-"]
    assert_only(tmp_path)


def test_a_slow_server_that_brings_something_each_time_is_not_given_up(server, tmp_path):
    server.drops, server.after = 3 * module.TRIES, 50_000
    fetch(server.remote(), tmp_path)
    assert_only(tmp_path)


def test_a_part_of_an_earlier_call_is_completed(server, tmp_path):
    server.drops, server.after = 100, 0
    (tmp_path / "set.tar.gz.part").write_bytes(CONTENT[:1000])
    with pytest.raises(UserError, match=r"could not be fetched .*: the connection broke after 1000 of 700001 bytes$"):
        fetch(server.remote(), tmp_path)
    assert (tmp_path / "set.tar.gz.part").read_bytes() == CONTENT[:1000]
    assert len(server.requests) == module.TRIES
    server.drops = 0
    fetch(server.remote(), tmp_path)
    assert server.requests[-1] == "bytes=1000-"
    assert_only(tmp_path)


def test_ctrl_c_leaves_the_part_for_the_next_call(server, tmp_path, monkeypatch):
    def update(bar, done, note=""):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Bar, "update", update)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.remote(), tmp_path)
    assert (tmp_path / "set.tar.gz.part").read_bytes() == CONTENT[: module.BLOCK]
    monkeypatch.undo()
    fetch(server.remote(), tmp_path)
    assert server.requests == [None, f"bytes={module.BLOCK}-"]
    assert_only(tmp_path)


def test_without_ranges_the_file_is_started_anew(server, tmp_path):
    server.ranges, server.drops = False, 1
    fetch(server.remote(), tmp_path)
    assert server.requests == [None, "bytes=300000-"]
    assert_only(tmp_path)


def test_without_ranges_and_with_drops_it_is_given_up(server, tmp_path):
    server.ranges, server.drops = False, 100
    with pytest.raises(UserError, match="the connection broke after 300000 of 700001 bytes"):
        fetch(server.remote(), tmp_path)
    assert len(server.requests) == 1 + module.TRIES  # only the first brought something new


def test_another_range_than_the_wanted_is_not_appended(server, tmp_path):
    server.wrong_range, server.drops = True, 1
    fetch(server.remote(), tmp_path)
    assert server.requests == [None, "bytes=300000-", None]
    assert_only(tmp_path)


@pytest.mark.parametrize("length", [None, len(CONTENT)])
def test_a_part_that_is_longer_than_the_file_is_started_anew(server, tmp_path, length):
    (tmp_path / "set.tar.gz.part").write_bytes(CONTENT + b"more")
    fetch(server.remote(bytes=length), tmp_path)
    assert_only(tmp_path)


def test_a_part_that_only_lacks_its_name_is_not_downloaded(server, tmp_path):
    (tmp_path / "set.tar.gz.part").write_bytes(CONTENT)
    fetch(server.remote(bytes=len(CONTENT)), tmp_path)
    assert server.requests == []
    assert_only(tmp_path)


@pytest.mark.parametrize(
    ("content", "length", "defect"),
    [
        (b"<html>", None, f"its md5 is {hashlib.md5(b'<html>').hexdigest()} and should be {MD5[4:]}"),
        (b"<html>", len(CONTENT), f"it has 6 bytes and should have {len(CONTENT)}"),
        (CONTENT + b"?", len(CONTENT), f"it has {len(CONTENT) + 1} bytes and should have {len(CONTENT)}"),
    ],
)
def test_another_file_is_refused_and_deleted(server, tmp_path, content, length, defect):
    server.content = content
    remote = server.remote(bytes=length)
    with pytest.raises(UserError, match=f"^{re.escape(f'{remote.url} is not the published file: {defect}')}$"):
        fetch(remote, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".set.tar.gz.lock"]


def test_of_an_endless_file_not_much_more_than_its_length_is_read(server, tmp_path):
    server.content = bytes(10_000_000)
    with pytest.raises(UserError, match=rf"it has {module.BLOCK} bytes and should have 10$"):
        fetch(server.remote(bytes=10), tmp_path)
    assert len(server.requests) == 1


def test_a_damaged_part_does_not_come_back(server, tmp_path):
    (tmp_path / "set.tar.gz.part").write_bytes(b"?" * 1000)
    with pytest.raises(UserError, match="is not the published file: its md5 is"):
        fetch(server.remote(), tmp_path)
    fetch(server.remote(), tmp_path)
    assert_only(tmp_path)


def test_a_server_that_does_not_answer_is_given_up(server, tmp_path):
    server.hold = threading.Event()
    with pytest.raises(UserError, match=r"could not be fetched into .*: the server does not answer$"):
        fetch(server.remote(), tmp_path, timeout=0.1)
    server.hold.set()


def test_what_is_not_there_is_asked_for_once(server, tmp_path):
    server.content = None
    with pytest.raises(UserError, match=r"could not be fetched into .*: HTTP 404 Not Found$"):
        fetch(server.remote(), tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://127.0.0.1/file"])
def test_a_redirect_to_anything_but_http_is_refused(server, tmp_path, address):
    server.redirect = address
    with pytest.raises(UserError, match=r"could not be fetched into .*(is not allowed|unknown url type: ftp)$"):
        fetch(server.remote(), tmp_path)
    assert not (tmp_path / "set.tar.gz.part").exists()


def test_a_redirect_within_http_is_followed(server, tmp_path):
    server.redirect = "/elsewhere"
    (tmp_path / "set.tar.gz.part").write_bytes(CONTENT[:1000])
    fetch(server.remote(), tmp_path)
    assert server.requests == ["bytes=1000-"] * 2
    assert_only(tmp_path)


def test_where_nothing_listens_one_sentence_says_so(tmp_path):
    remote = Remote("http://127.0.0.1:9/x.zip", MD5)  # the discard port
    message = f"http://127.0.0.1:9/x.zip could not be fetched into {tmp_path}: Connection refused"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        fetch(remote, tmp_path)


def test_a_full_disk_is_one_sentence_and_not_tried_again(server, tmp_path, monkeypatch):
    def update(bar, done, note=""):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.Bar, "update", update)
    with pytest.raises(UserError, match=r"could not be fetched into .*: No space left on device$"):
        fetch(server.remote(), tmp_path)
    assert len(server.requests) == 1


def test_a_folder_that_cannot_be_made_is_one_sentence(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"could not be fetched into .*file/folder: Not a directory$"):
        fetch(server.remote(), tmp_path / "file" / "folder")


def test_of_two_at_once_one_downloads_and_the_other_takes_its_file(server, tmp_path, monkeypatch):
    server.hold, asked = threading.Event(), []

    @contextlib.contextmanager
    def locked(path):
        asked.append(path)
        with real(path) as held:
            yield held

    real = module.locked
    monkeypatch.setattr(module, "locked", locked)
    threads = [threading.Thread(target=fetch, args=(server.remote(), tmp_path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(asked) == 2 and server.requests)
    with open(tmp_path / ".set.tar.gz.lock") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    server.hold.set()
    for thread in threads:
        thread.join()
    assert server.requests == [None]
    assert_only(tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"url": "ftp://x/y"}, "url of http, https or file"),
        ({"url": "/etc/passwd"}, "url of http, https or file"),
        ({"checksum": "md5:abc"}, "a checksum is md5:"),
        ({"checksum": "crc32:" + "0" * 8}, "a checksum is md5:"),
        ({"url": "http://x/"}, "gives no file name; got ''"),
        ({"url": "http://x/%2e%2e"}, r"gives no file name; got '\.\.'"),
        ({"file": "../x"}, r"gives no file name; got '\.\./x'"),
    ],
)
def test_a_remote_that_makes_no_sense_is_a_bug(given, message):
    with pytest.raises(ValueError, match=message):
        Remote(**{"url": "http://x/y.tar", "checksum": MD5} | given)


FILES = {"set/a.txt": b"a" * 3000, "set/deep/b.bin": CONTENT, "c": b""}


def tar_bytes(files=FILES, mode="w"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def zip_bytes(files=FILES, method=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return stream.getvalue()


ARCHIVES = {"plain.tar": tar_bytes(), "packed.tar.gz": tar_bytes(mode="w:gz"), "packed.zip": zip_bytes()}


@pytest.fixture
def archive(tmp_path):
    def write(content, name="some.archive"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def refused(archive, to, message):
    """The archive is refused in one sentence that begins with its name, and nothing is left of it."""
    with pytest.raises(UserError, match=f"^{re.escape(str(archive))} {message}") as raised:
        unpack(archive, to)
    assert "\n" not in str(raised.value)
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("misnamed", [False, True])
def test_archives_are_unpacked_whatever_their_name(tmp_path, archive, name, misnamed):
    to = unpack(archive(ARCHIVES[name], "some.zip" if misnamed else name), tmp_path / "new" / "folder")
    assert {str(path.relative_to(to)): path.read_bytes() for path in to.rglob("*") if path.is_file()} == FILES
    assert [path.name for path in to.parent.iterdir()] == ["folder"]


def test_a_folder_that_is_there_is_kept(tmp_path, archive):
    to = tmp_path / "folder"
    to.mkdir()
    unpack(archive(ARCHIVES["plain.tar"]), to)  # an empty one is filled
    assert (to / "c").exists()
    (to / "c").write_text("mine")
    assert unpack(archive(ARCHIVES["packed.zip"]), to) == to
    assert (to / "c").read_text() == "mine"


def test_another_process_that_was_first_wins(tmp_path, archive, monkeypatch):
    to = tmp_path / "folder"
    publish = module._publish

    def late(temporary, to):
        to.mkdir()
        (to / "c").write_text("theirs")
        publish(temporary, to)

    monkeypatch.setattr(module, "_publish", late)
    unpack(archive(ARCHIVES["plain.tar"]), to)
    assert (to / "c").read_text() == "theirs"
    assert {path.name for path in tmp_path.iterdir()} == {"some.archive", "folder"}


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("kept", [0, 1, 100, 512, 600, 0.3, 0.99])
def test_truncated_archives_are_refused(tmp_path, archive, name, kept):
    content = ARCHIVES[name]
    length = int(kept * len(content)) if isinstance(kept, float) else kept
    refused(archive(content[:length]), tmp_path / "folder", "is damaged or not an archive of tar, tar.gz or zip: ")


def test_a_tar_that_is_cut_between_two_members_is_refused(tmp_path, archive):
    first = tar_bytes({"set/a.txt": b"a" * 3000})[: 512 + 6 * 512]
    refused(archive(first), tmp_path / "folder", "is damaged .* its end is missing")
    refused(archive(gzip.compress(first)), tmp_path / "folder", "is damaged .* its end is missing")


def test_a_tar_with_a_damaged_header_in_its_middle_is_refused(tmp_path, archive):
    content = bytearray(ARCHIVES["plain.tar"])
    content[512 + 6 * 512 + 10] ^= 0xFF
    refused(archive(content), tmp_path / "folder", "is damaged .* its end is missing")


@pytest.mark.parametrize("name", ["packed.tar.gz", "packed.zip"])
def test_a_flipped_bit_is_found(tmp_path, archive, name):
    content = bytearray(ARCHIVES[name])
    content[len(content) // 2] ^= 1
    refused(archive(content), tmp_path / "folder", "is damaged")


def test_the_last_checksum_of_gzip_is_looked_at(tmp_path, archive):
    content = bytearray(ARCHIVES["packed.tar.gz"])
    content[-6] ^= 1
    refused(archive(content), tmp_path / "folder", "is damaged .*CRC check failed")


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b"PK\3\4 and so on", gzip.compress(b"no tar", mtime=0)])
def test_what_is_no_archive_is_refused(tmp_path, archive, content):
    refused(archive(content), tmp_path / "folder", "is damaged or not an archive")


@pytest.mark.parametrize("name", ["../evil", "/evil", "set/../../evil", "..", "\\evil", "..\\evil"])
@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes])
def test_members_that_leave_the_folder_are_refused(tmp_path, archive, pack, name):
    content = pack({"good": b"", name: b"x"})
    refused(archive(content), tmp_path / "folder", "is not safe to unpack: its member .* lies outside of its folder")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, archive, kind):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    refused(archive(stream.getvalue()), tmp_path / "folder", "is not safe .* 'link' is neither a file nor a folder")


def test_links_in_a_zip_are_refused(tmp_path, archive):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        member = zipfile.ZipInfo("link")
        member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(member, "/etc/passwd")
    refused(archive(stream.getvalue()), tmp_path / "folder", "is not safe .* 'link' is neither a file nor a folder")


@pytest.mark.parametrize("name", ARCHIVES)
def test_more_than_the_limit_is_refused(tmp_path, archive, name):
    path, total = archive(ARCHIVES[name]), sum(map(len, FILES.values()))
    with pytest.raises(UserError, match=f"its files have more than {total - 1} bytes$"):
        unpack(path, tmp_path / "folder", limit=total - 1)
    assert not (tmp_path / "folder").exists()
    unpack(path, tmp_path / "folder", limit=total)


def test_an_archive_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"none.tar could not be unpacked as .*folder: No such file or directory$"):
        unpack(tmp_path / "none.tar", tmp_path / "folder")
