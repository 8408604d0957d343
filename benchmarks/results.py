"""Processor seconds from a folder of 10,000 results to a paper's table.

    python benchmarks/results.py [--quick]

The results are generated, in the size and shape of real ones: 4,000 belong to the rows of a table, 6,000 do not.
"""

import argparse
import copy
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from trust_exp.identity import eval_id, run_id
from trust_exp.results import experiments
from trust_exp.results.collect import collect
from trust_exp.results.comparison import fill
from trust_exp.results.composing import compose_row, composing
from trust_exp.results.formats import to_csv
from trust_exp.results.record import SCHEMA, environment, fraction, now

TABLE = "cll/figure_4_4"
LIMIT = 10.0  # seconds that 10,000 results may take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 results: a smoke test")
    count = 1_000 if parser.parse_args().quick else 10_000
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        generate(runs, count)
        size = sum(path.stat().st_size for path in runs.glob("*/result.json"))
        print(f"{count} results, {size / 2**20:.0f} MB")
        begin = time.process_time()
        found = collect(runs)
        collected = time.process_time()
        table = fill(TABLE, found.results)
        filled = time.process_time()
        text = to_csv(table)
        end = time.process_time()
    runs_in_table = sum(len(row.runs) for row in table.rows)
    print(f"collect {collected - begin:6.2f} s   {len(found.results)} results, {len(found.unreadable)} odd")
    print(f"fill    {filled - collected:6.2f} s   {runs_in_table} of them in {len(table.rows)} rows")
    print(f"to_csv  {end - filled:6.2f} s   {len(text.splitlines())} lines")
    print(f"total   {end - begin:6.2f} s   (at most {LIMIT:g} s for 10,000)")


def generate(runs: Path, count: int) -> None:
    """Write ``count`` finished runs."""
    experiment = experiments.read(TABLE)
    where = environment("cpu (x86_64)")
    with composing():
        inside = [compose_row(row, "full") for row in experiment.rows]
    outside = copy.deepcopy(inside)
    for config in outside:
        config["method"]["decay" if config["method"]["name"] == "cll" else "iterations"] = 7
    for number in range(count):
        config = copy.deepcopy((inside if number % 10 < 4 else outside)[number % len(inside)])
        config["seed"] = number
        write(runs, config, where, classes=10 if number % 10 >= 4 else 0)


def write(runs: Path, config: dict[str, Any], where: dict[str, Any], classes: int) -> None:
    """Write one run's files; as many rows as an image classifier with so many classes has."""
    identity = run_id(config)
    folder = runs / f"{config['method']['name']}-{config['dataset']['name']}-{identity}"
    folder.mkdir()
    draw = random.Random(config["seed"])
    rows = [fraction("clean/accuracy", draw.randrange(20_000), 20_000)]
    for radius in config["eval"]["certify"]["radii"]:
        for prefix in ("", "train_"):
            rows.append(fraction(f"certify/{prefix}accuracy@{radius:.3g}", draw.randrange(2_000), 2_000, radius=radius))
        rows += [fraction(f"certify/class_accuracy@{radius:.3g}", 1, 200, **{"class": str(c)}) for c in range(classes)]
    metrics = {row.metric: row.value for row in rows if "class" not in row.detail}
    metrics |= {"certify/lipschitz": 100 * draw.random(), "derived/loss_lipschitz": 9.2}
    evals = {name: {"id": eval_id(node), "config": node, "environment": where} for name, node in config["eval"].items()}
    result = {
        "schema": SCHEMA,
        "run_id": identity,
        "name": folder.name,
        "status": "done",
        "error": None,
        "started": now(),
        "ended": now(),
        "config": config,
        "metrics": metrics,
        "rows": [{"suite": row.metric.partition("/")[0], **vars(row)} for row in rows],
        "evals": evals,
        "seconds": {"fit": 40.0},
        "environment": where,
        "figures": ["figures/certified_accuracy.png"],
    }
    (folder / "config.json").write_text(json.dumps({"overrides": [], "config": config}, indent=1))
    (folder / "result.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
