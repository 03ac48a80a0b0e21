"""Benchmark of scaling: seconds and memory by image size, image files, ranks and workers. Prints ratios too.

    python scripts/bench_scaling.py [--sizes 64 ...] [--files 10000 ...] [--ranks 1 2] [--workers 0 2] [--json FILE]

Rows of sizes, ranks and workers are separate ``fer-train`` runs of two epochs on demo faces with the tiny backbone, on
the CPU; the second epoch is timed. "around" is the time outside of epochs, which includes drawing and decoding the
faces.

Rows of files are JPEG files of 48 px in class folders, 9 in 10 for training: the seconds that it takes to list them, to
hash them, to ask for their states instead at a later start, and to decode them; then a ``fer-train`` of one epoch.

Memory is the peak in MB: "largest" is the resident memory of the run's largest process, including its pages of the
image store, which all processes share and the system can reclaim; "own" is the same without these pages; "all" is the
memory of all processes of the run, with shared pages counted once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench_store import PICTURES, write_different_pictures

from fer.data.images.content_hashes import HashIndex
from fer.data.images.store import ImageStore
from fer.data.readers.folder import read

FILE_SIZE = 48
CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
TINY = [
    "backbone=tiny",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "logger=none",
    "callbacks=none",
]


T = TypeVar("T")


class MemoryWatch(threading.Thread):
    """Peak memory in MB of a process and its children: the largest, its own (not file-backed) part, and all of them."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.root = pid
        self.largest = self.own = self.together = 0.0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.2):
            family, added = {self.root}, True
            parents = dict(_parents())
            while added:
                more = {child for child, parent in parents.items() if parent in family} - family
                family, added = family | more, bool(more)
            self.together = max(self.together, sum(self._look(process) for process in family))

    def _look(self, process: int) -> float:
        """Share of the process in the memory of all, in MB."""
        try:
            status, rollup = (Path(f"/proc/{process}/{name}").read_text() for name in ("status", "smaps_rollup"))
        except OSError:
            return 0.0
        lines = (line.partition(":") for line in (status + rollup).splitlines())
        values = {key: value for key, _, value in lines}
        if "VmRSS" not in values or "Pss" not in values:
            return 0.0  # it has just ended
        self.largest = max(self.largest, _megabytes(values["VmRSS"]))
        self.own = max(self.own, _megabytes(values["RssAnon"]))
        return _megabytes(values["Pss"])


def _parents() -> list[tuple[int, int]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found.append((int(entry.name), int(fields[1])))
    return found


def _megabytes(value: str) -> float:
    return int(value.split()[0]) / 1e3


def epoch(*, size: int, faces: int, ranks: int, output: Path, workers: int = 0) -> dict[str, float]:
    """Measure the second epoch of a run on demo faces."""
    folder = output / f"{size}-{faces}-{ranks}-{workers}"
    demo = [f"data.reader.train={faces}", "data.reader.test=64", f"augment.size={size}"]
    devices = [f"trainer.devices={ranks}", f"num_workers={workers}"]
    return run(folder, faces, [*demo, *devices, "trainer.max_epochs=2"])


def run(folder: Path, faces: int, overrides: Sequence[str]) -> dict[str, float]:
    """Train in a process of its own; measure the last epoch, the seconds outside of all epochs, and memory."""
    command = [sys.executable, "-m", "fer.cli.train", *TINY, *overrides, f"hydra.run.dir={folder}"]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        memory = MemoryWatch(process.pid)
        memory.start()
        said = process.communicate()[0]
        memory.done.set()
    if process.returncode:
        raise SystemExit(said)
    total = time.perf_counter() - started
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    seconds = [record["seconds"] for record in records]
    return {
        "epoch": seconds[-1],
        "faces per second": faces / seconds[-1],
        "around": total - sum(seconds),
        "largest MB": memory.largest,
        "own MB": memory.own,
        "all MB": memory.together,
    }


def many_files(count: int, output: Path) -> dict[str, float]:
    """Measure the steps from ``count`` image files to the end of the first epoch on them."""
    root, cache = output / "faces", output / "cache"
    write_files(root, count)
    time.sleep(2.5)  # the hashes of files that have just changed are not kept
    workers = len(os.sched_getaffinity(0))
    seconds = {}

    def timed(name: str, step: Callable[[], T]) -> T:
        started = time.perf_counter()
        done = step()
        seconds[name] = time.perf_counter() - started
        return done

    table = timed("list", lambda: read(root))
    index = HashIndex(root, cache)
    timed("hash", lambda: index.of(table.paths, workers))
    index.keep(table.paths)
    timed("states", lambda: HashIndex(root, cache).of(table.paths, workers))
    timed("decode", lambda: ImageStore.open(table, size=FILE_SIZE, cache_dir=cache))
    data = ["data=folder", f"data.root={root}", f"data.store_size={FILE_SIZE}", f"augment.size={FILE_SIZE}"]
    trained = len(table.train)
    found = run(output / "run", trained, [*data, f"cache_dir={cache}", "trainer.max_epochs=1"])
    return seconds | found


def write_files(root: Path, count: int) -> None:
    """Write a data set of class folders, 9 in 10 files for training.

    Every picture has one class, which can be learned: from labels without sense, weight decay makes weights so small
    that a processor computes with them far more slowly.
    """
    for split in ("train", "test"):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
    paths = [
        root / ("train" if number % 10 else "test") / CLASSES[number % PICTURES % len(CLASSES)] / f"{number:06d}.jpg"
        for number in range(count)
    ]
    write_different_pictures(paths, FILE_SIZE)


def table(title: str, rows: dict[int, dict[str, float]], expected: dict[int, float]) -> None:
    first = next(iter(rows))
    print(
        f"\n{title:>12}{'epoch s':>10}{'ratio':>8}{'expected':>10}{'faces/s':>10}{'around s':>10}"
        f"{'largest MB':>12}{'own MB':>8}{'all MB':>8}"
    )
    for value, row in rows.items():
        ratio = row["epoch"] / rows[first]["epoch"]
        print(
            f"{value:12,}{row['epoch']:10.1f}{ratio:8.2f}{expected[value] / expected[first]:10.2f}"
            f"{row['faces per second']:10.0f}{row['around']:10.1f}"
            f"{row['largest MB']:12.0f}{row['own MB']:8.0f}{row['all MB']:8.0f}",
            flush=True,
        )


def table_of_files(rows: Mapping[int, Mapping[str, float]]) -> None:
    steps = ("list", "hash", "states", "decode", "epoch", "around")
    heads = "".join(f"{step} s".rjust(10) for step in steps)
    print(f"\n{'files':>12}{heads}{'ms a file':>11}{'largest MB':>12}{'own MB':>8}")
    for count, row in rows.items():
        print(
            f"{count:12,}{''.join(f'{row[step]:10.1f}' for step in steps)}{1e3 * row['epoch'] / count:11.2f}"
            f"{row['largest MB']:12.0f}{row['own MB']:8.0f}",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 96, 128, 160, 192, 224])
    parser.add_argument("--files", type=int, nargs="*", default=[10_000, 100_000, 300_000])
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="loader workers of each rank")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    found: dict[str, Any] = {"machine": {"system": platform.platform(), "cores": os.cpu_count()}}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        plans = {
            "size": [{"size": size, "faces": 1000, "ranks": 1} for size in options.sizes],
            "ranks": [{"size": 64, "faces": 2000, "ranks": ranks} for ranks in options.ranks],
            "workers": [
                {"size": 64, "faces": 2000, "ranks": max(options.ranks, default=1), "workers": workers}
                for workers in options.workers
            ],
        }
        for what, plan in plans.items():
            rows = {values[what]: epoch(**values, output=output / what) for values in plan}
            # Work grows with the pixels; ranks and workers share these cores.
            expected = {value: value**2 if what == "size" else 1 for value in rows}
            if rows:
                table(what, rows, expected)
            found[what] = rows
        found["files"] = {}
        for count in options.files:
            with tempfile.TemporaryDirectory(dir=folder) as files:
                found["files"][count] = many_files(count, Path(files))
        if found["files"]:
            table_of_files(found["files"])
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
