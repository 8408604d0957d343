"""Runs as the engine leaves them, made in milliseconds: realistic results, curves and figures without any training."""

import copy
import io
import json
import math
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trust_exp.identity import run_id
from trust_exp.results.record import SCHEMA, fraction

METHODS = ("cll", "gloro", "lmt", "standard")
RADII = (0.25, 0.5, 0.75, 1.0)
BEGIN = datetime.fromisoformat("2026-03-01T08:00:00+00:00")


class RunMaker:
    """Writes runs into a folder, each a minute later than the one before it."""

    def __init__(self, runs: Path, configs: dict[str, dict[str, Any]]) -> None:
        self.runs = runs
        self.configs = configs
        self._made = 0

    def config(self, method: str = "cll", seed: int = 0, **changes: Any) -> dict[str, Any]:
        """A checked configuration; ``changes`` are of the method, but for ``size``."""
        config = copy.deepcopy(self.configs[method])
        config |= {"seed": seed, "size": changes.pop("size", "full")}
        config["method"] |= changes
        return config

    def write(
        self,
        config: dict[str, Any],
        *,
        curve: int = 30,
        figure: int = 40,
        files: dict[str, str] | None = None,
        **values: Any,
    ) -> Path:
        """One run: its curve of so many steps, a figure of so many pixels a side, other files, and other values."""
        self._made += 1
        key = run_id(config)
        name = f"{config['method']['name']}-{config['dataset']['name']}-{key}"
        folder = self.runs / name
        folder.mkdir(parents=True)
        result = finished(key, name, config, BEGIN + timedelta(minutes=self._made)) | values
        if curve:
            write_curve(folder / "curves" / "version_0" / "metrics.csv", curve, key)
        if figure:
            write_picture(folder / "figures" / "certified_accuracy.png", figure, key)
            result["figures"] = ["figures/certified_accuracy.png", *values.get("figures", [])]
        for path, text in (files or {}).items():
            (folder / path).write_text(text)
        (folder / "config.json").write_text(json.dumps({"overrides": [], "config": config}))
        (folder / "result.json").write_text(json.dumps(result, indent=1))
        return folder

    def fail(self, config: dict[str, Any], error: str, **more: Any) -> Path:
        """A run that raised before it measured anything."""
        files = {"traceback.txt": f"Traceback (most recent call last):\n  ...\n{error}\n"} | more.pop("files", {})
        nothing = {"metrics": {}, "rows": [], "evals": {}, "figures": [], "seconds": {"fit": 0.4}}
        return self.write(config, status="failed", error=error, figure=0, files=files, **nothing, **more)

    def many(self, n: int, **given: Any) -> None:
        """``n`` runs over methods, widths of the margin, sizes and seeds; each twentieth failed."""
        for i in range(n):
            method = METHODS[i % 4]
            third, size, seed = i // 4 % 3, ("full", "small")[i // 12 % 2], i // 24
            if method == "standard":  # it knows no margin
                config = self.config(method, seed=3 * seed + third, size=size)
            else:
                config = self.config(method, seed, size=size, epsilon=(0.25, 0.5, 1.0)[third])
            if i % 20 == 7:
                self.fail(config, f"FloatingPointError: the loss was nan at step {i}", curve=given.get("curve", 30))
            else:
                self.write(config, **given)


def finished(key: str, name: str, config: dict[str, Any], started: datetime) -> dict[str, Any]:
    """A result.json of a run that is done, its numbers drawn by its id."""
    draw, rows = random.Random(key), []
    clean = draw.randint(300, 345)
    rows.append(row("clean", "clean/accuracy", clean, 359))
    for radius in RADII:
        left = int(clean * (1 - radius * draw.uniform(0.7, 0.95)))
        rows.append(row("certify", f"certify/accuracy@{radius:g}", left, 359, radius=radius, norm="L2", how="L2"))
        for label in range(10):
            of_class = {"radius": radius, "class": str(label)}
            rows.append(row("certify", f"certify/class_accuracy@{radius:g}", draw.randint(0, 36), 36, **of_class))
    bound = {"unit": "K", "n": None, "interval": None, "detail": {"how": "upper bound, float64"}}
    rows.append({"suite": "certify", "metric": "certify/lipschitz", "value": draw.uniform(15, 170), **bound})
    rows.append(row("autoattack", "autoattack/accuracy", clean - 60, 359, how="L2 0.5: apgd-ce + apgd-t"))
    broken = {"value": 0.0, "unit": "images", "n": 201, "interval": None, "detail": {"how": "must be 0"}}
    rows.append({"suite": "autoattack", "metric": "autoattack/broken_certificates", **broken})
    seconds = {"setup": 0.004, "fit": draw.uniform(5, 200), "eval/certify": 5.2, "eval/autoattack": 5.6}
    environment = {
        "trust_exp": "0.1.0",
        "commit": "0123456789ab",
        "python": "3.11.7",
        "platform": "Linux-x86_64",
        "cores": 2,
        "device": "cpu (x86_64)",
        "command": ["run.py", f"method={config['method']['name']}", f"seed={config['seed']}"],
        "versions": {"torch": "2.14.1", "lightning": "2.6.6", "numpy": "2.4.6"},
    }
    evals = {suite: {"id": f"{suite}-1", "config": {}, "environment": environment} for suite in ("clean", "certify")}
    return {
        "schema": SCHEMA,
        "run_id": key,
        "name": name,
        "status": "done",
        "error": None,
        "started": started.isoformat(timespec="seconds"),
        "ended": (started + timedelta(seconds=sum(seconds.values()))).isoformat(timespec="seconds"),
        "config": config,
        "metrics": {row["metric"]: row["value"] for row in rows if "class" not in row["detail"]}
        | {"derived/scale": 0.1},
        "rows": rows,
        "evals": evals,
        "seconds": seconds,
        "steps": 1760,
        "samples_per_second": 9612.0,
        "peak_memory_mb": 849,
        "environment": environment,
        "data": {"sha256": "00ff00ff"},
        "figures": [],
    }


def row(suite: str, metric: str, hits: int, n: int, **detail: Any) -> dict[str, Any]:
    made = fraction(metric, hits, n, **detail)
    return {"suite": suite, **vars(made)}


def write_curve(path: Path, n: int, key: str) -> None:
    """A loss that falls over decades, an accuracy that rises, in noise."""
    draw = random.Random(key)
    lines = ["epoch,step,train/accuracy,train/lipschitz,train/loss"]
    for i in range(n):
        wave = draw.gauss(0, 0.02)
        accuracy, loss = 1 - 0.9 * math.exp(-4 * i / n) + wave, 10 * math.exp(-6 * i / n) * (1 + wave)
        lines.append(f"{i},{49 + 50 * i},{accuracy},{100 + 60 * i / n + 100 * wave},{loss}")
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n")


def write_picture(path: Path, side: int, key: str) -> None:
    """Noise, which no PNG can shrink."""
    content = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(key).randbytes(3 * side * side)).save(content, "PNG")
    path.parent.mkdir(parents=True)
    path.write_bytes(content.getvalue())


@pytest.fixture(scope="session")
def runs_in(
    composed_in: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], RunMaker]:
    """``runs_in(folder)`` makes runs there."""
    unused = tmp_path_factory.mktemp("unused")
    configs = {method: composed_in(unused, f"method={method}", "dataset=digits") for method in METHODS}
    return lambda folder: RunMaker(folder, configs)


@pytest.fixture
def runs(runs_in: Callable[[Path], RunMaker], tmp_path: Path) -> RunMaker:
    """Makes runs in a folder of the test's own."""
    return runs_in(tmp_path / "runs")
