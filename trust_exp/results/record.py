"""result.json: the only source of truth about a run. Tables, reports and dashboards are views of it."""

import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from trust_exp import __version__
from trust_exp.runs import Run, write_json

SCHEMA = 1
DRAWS = 2  # the scheme of random numbers: each part draws by a key of its own; 1 (or none): all from one generator
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "omegaconf", "torchmetrics", "pyautoattack", "numpy")


@dataclass(frozen=True)
class Row:
    """One measured number.

    ``value`` is in ``unit`` (a fraction in [0, 1] has the unit "fraction"), measured on ``n`` samples;
    ``interval`` is its 95 % confidence interval where one is known; ``detail`` says how it was measured.
    """

    metric: str
    value: float
    unit: str = "fraction"
    n: int | None = None
    interval: tuple[float, float] | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    def led_by(self, name: str) -> "Row":
        """The same row of an eval of another name, which then leads the metric."""
        return replace(self, metric=f"{name}/{self.metric.partition('/')[2]}")


def fraction(metric: str, hits: int, n: int, **detail: Any) -> Row:
    """Row of the fraction hits / n with its 95 % Wilson interval.

    Source: Wilson 1927; z = 1.96.
    """
    z, share = 1.959964, hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Row(metric, share, "fraction", n, (max(0.0, centre - half), min(1.0, centre + half)), detail)


class Record:
    """The result of one run, kept up to date on disk from the start of the run to its end."""

    def __init__(self, run: Run, config: dict[str, Any]) -> None:
        self.path = run.result
        self.values: dict[str, Any] = run.read("result.json") or {
            "schema": SCHEMA,
            "run_id": run.id,
            "name": run.folder.name,
            "status": "running",
            "error": None,
            "started": now(),
            "ended": None,
            "config": config,
            "metrics": {},
            "rows": [],
            "evals": {},
            "seconds": {},
            "steps": None,
            "samples_per_second": None,
            "peak_memory_mb": None,
            "environment": {},
            "data": None,
            "facts": {},
            "figures": [],
        }

    def write(self, **changes: Any) -> None:
        """Change values and write the file by rename."""
        self.values.update(changes)
        self.values["ended"] = None if self.values["status"] == "running" else now()
        write_json(self.path, self.values)

    def add(self, suite: str, how: dict[str, Any], rows: Sequence[Row], figures: Sequence[Path] = ()) -> str:
        """Put a suite's rows and figures in the place of those it gave before.

        Args:
            how: what was asked, and where.

        Returns:
            The options of the rows that are gone, if they were others, such as "radii=[0.1, 0.2]"; else empty.
        """
        earlier = self.values["evals"].get(suite, {})
        before = set(earlier.get("figures", []))
        for row in self.values["rows"]:
            if row["suite"] == suite:
                self.values["metrics"].pop(row["metric"], None)
        kept = [row for row in self.values["rows"] if row["suite"] != suite]
        self.values["rows"] = kept + [{"suite": suite, **asdict(row)} for row in rows]
        for row in rows:
            if "class" not in row.detail:
                self.values["metrics"][row.metric] = row.value
        names = [str(path.relative_to(self.path.parent)) for path in figures]
        self.values["evals"][suite] = {**how, "figures": names}
        self.values["figures"] = sorted((set(self.values["figures"]) - before) | set(names))
        self.write()
        for name in before - set(names):
            (self.path.parent / name).unlink(missing_ok=True)
        return _other_options(earlier, how)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds that the body takes; those of a training add up over its resumes, others are the last."""
        begin, before = time.perf_counter(), self.values["seconds"].get(name, 0.0) if name == "fit" else 0.0
        try:
            yield
        finally:
            self.values["seconds"][name] = round(before + time.perf_counter() - begin, 3)


def _other_options(earlier: dict[str, Any], how: dict[str, Any]) -> str:
    """Options of an earlier eval that differ from those of this one."""
    if not earlier or earlier.get("id") == how.get("id"):
        return ""
    before, after = earlier.get("config", {}), how.get("config", {})
    return ", ".join(
        f"{key}={value}" for key, value in before.items() if key[:1] != "_" and key in after and after[key] != value
    )


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment(device: str) -> dict[str, Any]:
    """Versions, commit, machine and device, so that a number can be traced."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "trust_exp": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "device": device,
        "command": sys.argv,
        "versions": versions,
    }


def commit() -> str | None:
    """The checkout's commit, with a + if files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() or None
