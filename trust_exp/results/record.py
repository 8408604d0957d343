"""result.json: the only source of truth about a run. Tables, reports and dashboards are views of it."""

import math
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trust_exp import __version__
from trust_exp.runs import Run, write_json

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

SCHEMA = 1
DRAWS = 2  # the scheme of random numbers: each part draws by a key of its own; 1 (or none): all from one generator
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "omegaconf", "torchmetrics", "pyautoattack", "numpy")


@dataclass(frozen=True)
class Row:
    """One measured number.

    ``value`` is in ``unit`` (a fraction in [0, 1] has the unit "fraction"), measured on ``n`` samples;
    ``interval`` is its 95 % confidence interval in the same unit, where one is known; ``detail`` says how it was
    measured. A value of nan says that there was nothing to measure.
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
    """Row of the fraction hits / n with its 95 % Wilson interval; of no samples nan, without an interval.

    Raises:
        ValueError: unless 0 <= hits <= n.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"{metric} needs 0 <= hits <= n; got {hits} hits of {n} samples")
    if n == 0:
        return Row(metric, math.nan, "fraction", 0, detail=detail)
    from trust_exp.results.intervals import wilson  # here, as scipy takes long to import

    return Row(metric, hits / n, "fraction", n, wilson(hits, n), detail)


def mean(metric: str, values: "ArrayLike", unit: str, **detail: Any) -> Row:
    """Row of the mean of one value a sample, [N], with its 95 % bootstrap interval over the samples.

    The mean of no samples is nan; fewer than two have no interval, nor has a mean that is not finite.

    Raises:
        ValueError: if the values are not one a sample.
    """
    import numpy as np

    from trust_exp.results.intervals import bootstrap_mean

    found = np.asarray(values, np.float64)
    if found.ndim != 1:
        raise ValueError(f"{metric} needs one value a sample, [N]; got values of shape {list(found.shape)}")
    value = float(found.mean()) if len(found) else math.nan
    interval = bootstrap_mean(found, metric) if math.isfinite(value) else None
    return Row(metric, value, unit, len(found), interval, detail)


def mean_difference(metric: str, first: "ArrayLike", second: "ArrayLike", unit: str, **detail: Any) -> Row:
    """Row of the mean of first - second, each [N] of the same samples, with its 95 % paired bootstrap interval.

    Raises:
        ValueError: if they differ in their number, or are not one value a sample.
    """
    import numpy as np

    pair = [np.asarray(values, np.float64) for values in (first, second)]
    if pair[0].shape != pair[1].shape:
        raise ValueError(
            f"{metric} compares the same samples; got shapes {list(pair[0].shape)} and {list(pair[1].shape)}"
        )
    return mean(metric, pair[0] - pair[1], unit, **detail)


def is_measured(value: Any) -> bool:
    """Whether a value of a result is a number; nan is that of nothing measured, such as a fraction of no samples."""
    return isinstance(value, int | float) and not math.isnan(value)


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
    return ", ".join(_differing(earlier.get("config", {}), how.get("config", {})))


def _differing(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in before.items():
        if key[:1] == "_" or key not in after or after[key] == value:
            continue
        if isinstance(value, Mapping) and isinstance(after[key], Mapping):
            yield from _differing(value, after[key], f"{path}{key}.")
        else:
            yield f"{path}{key}={value}"


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment(device: str, command: Sequence[str]) -> dict[str, Any]:
    """Versions, commit, machine, device and command (the words after ``python``), so that a number can be traced."""
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
        "command": list(command),
        "versions": versions,
    }


def commit() -> str | None:
    """The checkout's commit, with a + if files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        finished = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return finished.stdout.strip() or None
