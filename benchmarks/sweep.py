"""What a sweep costs: seconds a job beside the same jobs by plain run.py, and seconds a job that is done already.

Six digits jobs (size=smoke) one after the other, each way four times in turn, the best of each; then 200 that are done.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ["size=smoke", "eval=[clean]"]
JOBS, ROUNDS, DONE = 6, 4, 200


class Seconds(NamedTuple):
    """By the clock, and of the processor (which tells more where other programs run)."""

    clock: float
    processor: float

    def __truediv__(self, count: int) -> "Seconds":
        return Seconds(self.clock / count, self.processor / count)

    def __str__(self) -> str:
        return f"{self.clock:.2f} s (processor {self.processor:.2f} s)"


def run(runs: Path, *arguments: str) -> Seconds:
    """What run.py and the processes that it starts take."""
    environment = {**os.environ, "TRUST_EXP_RUNS": str(runs), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    begin, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "run.py", *arguments], cwd=ROOT, env=environment, check=True, capture_output=True)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return Seconds(time.perf_counter() - begin, busy)


def pretend_done(runs: Path) -> None:
    """Fill ``runs`` with runs that look done, from the one in it."""
    sys.path.insert(0, str(ROOT))
    from trust_exp.identity import run_id

    (path,) = runs.glob("*/result.json")
    result = json.loads(path.read_text())
    for seed in range(DONE):
        config = {**result["config"], "seed": seed}
        folder = runs / f"cll-digits-{run_id(config)}"
        folder.mkdir(exist_ok=True)
        (folder / "weights.pt").touch()
        (folder / "config.json").write_text(json.dumps({"overrides": [], "config": config}))
        (folder / "result.json").write_text(json.dumps({**result, "config": config}))


def main() -> None:
    """Measure and print."""
    plain, swept = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            runs = Path(folder) / f"plain-{number}"
            alone = [run(runs, *SMOKE, f"seed={seed}") for seed in range(JOBS)]
            plain.append(Seconds(*map(sum, zip(*alone, strict=True))) / JOBS)
            runs = Path(folder) / f"swept-{number}"
            swept.append(run(runs, "-m", *SMOKE, f"seed=range(0,{JOBS})", "hydra.launcher.workers=1") / JOBS)
            print(f"a job by plain run.py {plain[-1]}, in a sweep {swept[-1]}", flush=True)
        one, many = (Seconds(*map(min, zip(*rounds, strict=True))) for rounds in (plain, swept))
        more, busy = many.clock - one.clock, many.processor - one.processor
        print(f"best of each: overhead {more:+.2f} s (processor {busy:+.2f} s), ratio {many.clock / one.clock:.2f}")

        done = Path(folder) / "done"
        run(done, *SMOKE)
        pretend_done(done)
        few, every = run(done, "-m", *SMOKE, "seed=0,1"), run(done, "-m", *SMOKE, f"seed=range(0,{DONE})")
        each = 1000 * (every.clock - few.clock) / (DONE - 2)
        print(f"a job that is done, in a sweep of {DONE}: {each:.0f} ms; all of it {every}")


if __name__ == "__main__":
    main()
