"""``python -m tests.fuzz [-n 100000] [reader ...]``: changed files for every reader, or for some; see README.md."""

import argparse
import sys

from tests.fuzz.harness import run
from tests.fuzz.readers import READERS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("readers", nargs="*", metavar="reader", help="default: all")
    parser.add_argument("-n", type=int, default=100_000, help="inputs of each reader (default: 100000)")
    parser.add_argument("--seed", type=int, help="only this input")
    parser.add_argument("--all-failures", action="store_true", help="print more than the first failing seed")
    given = parser.parse_args()
    if wrong := set(given.readers) - READERS.keys():
        parser.error(f"no such reader: {', '.join(sorted(wrong))}; there are {', '.join(READERS)}")
    failed = False
    for name in given.readers or READERS:
        reader = READERS[name]
        own = range(-len(reader.variants), given.n) if given.seed is None else [given.seed]
        report = run(reader, own)
        print(
            f"{name:24} {report.inputs:7} inputs, {report.taken:6} taken, {report.refused:6} refused, "
            f"{report.seconds:6.1f} s, slowest {report.slowest[0]:.2f} s (seed {report.slowest[1]})",
            flush=True,
        )
        for seed in sorted(report.failures)[: None if given.all_failures else 1]:
            print(f"  {len(report.failures)} fail, seed {seed}:\n  " + report.failures[seed].replace("\n", "\n  "))
        failed |= bool(report.failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
