"""Gives readers changed files, in a process with limits of time and memory, and reports what breaks."""

import faulthandler
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.mutator import mutated
from trust_exp.errors import UserError
from trust_exp.messages import causes

CPU_SECONDS = 20  # of one input; of this process alone, so that a busy machine does not count
ADDRESS_SPACE = 8 * 2**30  # more than before; it is asked for, not used: a file of MATLAB may ask for 4 GiB
MEMORY = 2**30  # more than before that is used; the largest image that is read takes 0.7 GiB
SENTENCE = 2000  # characters of a message

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Reader:
    """A function that reads foreign files, and valid ones.

    Args:
        read: called with the folder of the files; a folder ``scratch`` beside it is there to be written to.
        valid: valid sets of files, contents by name, or a function that makes them; what is not to be changed has a
            name in ``fixed``.
        quick: how many inputs ``make test`` tries; fewer for a slow one.
        writes: it may write beside the files; then it is checked that it wrote to ``scratch`` alone.
    """

    name: str
    read: Callable[[Path], Any]
    valid: Sequence[Files] | Callable[[], Sequence[Files]]
    quick: int = 1000
    fixed: tuple[str, ...] = ()
    writes: bool = False

    @cached_property
    def variants(self) -> Sequence[Files]:
        return self.valid() if callable(self.valid) else self.valid


@dataclass
class Report:
    """What came of the inputs of a reader: how many it took, how many it refused, and the defect of each seed."""

    name: str
    taken: int = 0
    refused: int = 0
    seconds: float = 0.0  # of CPU time
    slowest: tuple[float, int] = (0.0, 0)  # CPU seconds, seed
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        return self.taken + self.refused + len(self.failures)


def input_of(reader: Reader, seed: int) -> dict[str, bytes]:
    """The files of one input; seed -1 - i is the i-th valid set as it is."""
    if seed < 0:
        return dict(reader.variants[-1 - seed])
    random = Random(f"{reader.name} {seed}")
    files = dict(random.choice(reader.variants))
    name = random.choice([name for name in files if name not in reader.fixed])
    others = [content for variant in reader.variants for content in variant.values()]
    return files | {name: mutated(files[name], others, random)[: 2**20]}


def run(reader: Reader, seeds: Iterable[int]) -> Report:
    """Try the inputs in a process of their own; one that dies of an input goes on after it in another one."""
    report, left = Report(reader.name), list(seeds)
    assert reader.variants  # made here, once for all processes
    folder = Path(tempfile.mkdtemp(prefix="fuzz.", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        while left:
            done, how = _in_child(reader, left, folder, report)
            left = left[done:]
            if how:
                report.failures[left.pop(0)] = how
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _in_child(reader: Reader, seeds: list[int], folder: Path, report: Report) -> tuple[int, str]:
    """How many inputs were done, and how the process died of the next one; empty if it did not."""
    counts = mmap.mmap(-1, 32)  # CPU seconds, taken, refused, defects: they outlive the child
    incoming, outgoing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(incoming)
        _try_all(reader, seeds, folder, counts, outgoing)
    os.close(outgoing)
    with os.fdopen(incoming) as lines:
        for line in lines:
            what, seed, more = json.loads(line)
            if what == "slowest":
                report.slowest = max(report.slowest, (more, seed))
            else:
                report.failures[seed] = more
    _, status = os.waitpid(child, 0)
    seconds, taken, refused, defects = struct.unpack("d3q", counts)
    report.seconds += seconds
    report.taken += taken
    report.refused += refused
    done = taken + refused + defects
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        how = f"more than {CPU_SECONDS} s of CPU time" if number == signal.SIGXCPU else signal.strsignal(number)
        return done, str(how)
    return done, "" if os.WEXITSTATUS(status) == 0 else f"exit code {os.WEXITSTATUS(status)}"


def _try_all(reader: Reader, seeds: list[int], folder: Path, counts: mmap.mmap, outgoing: int) -> None:
    """The life of the child: it counts, and says each defect in a line of JSON."""
    code = 1
    try:
        _limit()
        place, found, slowest, before = Place(folder), {"taken": 0, "refused": 0, "defect": 0}, (0.0, 0), _used()

        def tell(what: str, seed: int, more: Any) -> None:
            os.write(outgoing, json.dumps([what, seed, more]).encode() + b"\n")

        for seed in seeds:
            files = input_of(reader, seed)
            begin = time.process_time()
            resource.setrlimit(resource.RLIMIT_CPU, (int(begin) + CPU_SECONDS + 1, resource.RLIM_INFINITY))
            what, said, defect = attempt(reader, place, files)
            if seed < 0 and what == "refused":
                defect = defect or f"a valid file is refused: {said}"
            slowest = max(slowest, (time.process_time() - begin, seed))
            if (used := _used()) - before > MEMORY:
                defect, before = f"it uses {(used - before) / 2**30:.1f} GiB of memory", used
            if defect:
                tell("defect", seed, defect)
            found["defect" if defect else what] += 1
            counts[:] = struct.pack("d3q", time.process_time(), *found.values())
        tell("slowest", slowest[1], slowest[0])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (space, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()  # the parent says which input it was
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", category=RuntimeWarning, module="trust_exp")  # such as a cast of nan


def _used() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Place:
    """The folder of an input, which keeps the files that the next one has too."""

    def __init__(self, folder: Path) -> None:
        self.files, self.scratch = folder / "files", folder / "scratch"
        self._held: dict[str, bytes] = {}
        self.clear()

    def clear(self) -> None:
        for folder in (self.files, self.scratch):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        self._held = {}

    def hold(self, files: Files) -> None:
        """Make these the files of the folder."""
        for name in self._held.keys() - files.keys():
            (self.files / name).unlink(missing_ok=True)
        for name, content in files.items():
            if self._held.get(name) != content:
                (self.files / name).parent.mkdir(parents=True, exist_ok=True)
                (self.files / name).write_bytes(content)
        self._held = dict(files)


def attempt(reader: Reader, place: Place, files: Files) -> tuple[str, str, str]:
    """Whether an input was taken or refused, what was said, and the defect; empty if there is none."""
    place.hold(files)
    what, said, defect = "taken", "", ""
    try:
        reader.read(place.files)
    except UserError as error:
        what, said, defect = "refused", str(error), _defect_of(error)
    except BaseException as error:
        defect = "".join(traceback.format_exception(error, limit=-6)).strip()
    if reader.writes:
        defect = defect or _left_beside(place)
        place.clear()
    return what, said, defect


def _defect_of(error: UserError) -> str:
    """Why a message is not one sentence, or came too late."""
    text = str(error)
    if any(isinstance(cause, MemoryError) for cause in causes(error)):
        return f"it asked for memory without end before it refused the file: {text}"
    if not text.strip() or len(text) > SENTENCE or any(unicodedata.category(one) in ("Cc", "Zl", "Zp") for one in text):
        return f"no sentence ({len(text)} characters): {text[:300]!r}"
    return ""


def _left_beside(place: Place) -> str:
    there = {path.name for path in place.files.parent.iterdir()} - {"files", "scratch"}
    there |= {"/escaped"} if os.path.lexists("/escaped") else set()
    unsafe = [path for path in place.scratch.rglob("*") if not (path.is_file() or path.is_dir()) or path.is_symlink()]
    return f"it wrote {sorted(there)} {unsafe}" if there or unsafe else ""
