"""Benchmark of opening an image store, with and without checks of its checksums and files. Prints ms and ratios.

    python scripts/bench_store.py [--images 15339] [--size 100] [--rounds 7] [--folder DIR] [--json FILE]

The script makes a data set of JPEG files of a few kilobytes, by default as many as RAF-DB has, and its store. The
contestants take turns; the median of the rounds counts. These files are in the system's memory. The last line shows
the time for reading from the disk, if the system can drop a file's pages from memory.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fer.data.images import store_files
from fer.data.images.content_hashes import HashIndex
from fer.data.images.decode import file_state
from fer.data.images.store import ImageStore
from fer.data.table import SampleTable

PICTURES = 200
KNOWN, COMPARED = "open, blocks known", "open, every block compared"
STATES, READING = "hashes by the files' states", "hashes by reading all files"


def make_files(root: Path, count: int, size: int) -> SampleTable:
    """Write ``count`` JPEG files of different content."""
    root.mkdir()
    paths = tuple(root / f"{number:05d}.jpg" for number in range(count))
    write_different_pictures(paths, size)
    rows = np.arange(count)
    return SampleTable("bench", root, paths, rows % 7, rows < 0.8 * count, tuple("abcdefg"))


def write_different_pictures(paths: Sequence[Path], size: int) -> None:
    """Write JPEG files of ``size`` x ``size`` pixels; some bytes behind a picture make another file of it."""
    generator = np.random.default_rng(0)
    pictures = []
    for _ in range(min(PICTURES, len(paths))):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        stream = io.BytesIO()
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=95)
        pictures.append(stream.getvalue())
    for number, path in enumerate(paths):
        path.write_bytes(pictures[number % len(pictures)] + number.to_bytes(4, "little"))


def forget_pages(path: Path) -> None:
    """Ask the system to read the file from the disk the next time."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=15_339)
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where the data set and the store are made (default: temporary)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    workers = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        cache = Path(temporary, "cache")
        table = make_files(Path(temporary, "files"), options.images, options.size)
        time.sleep(2.5)  # the hashes of files that have just changed are not kept

        def open_store(*, first: bool, thorough: bool = False) -> ImageStore:
            if first:
                store_files._whole.clear()  # as in a new process
            return ImageStore.open(table, size=options.size, cache_dir=cache, thorough=thorough)

        def open_cold() -> None:
            forget_pages(store.path)
            open_store(first=True)

        started = time.perf_counter()
        store = open_store(first=True)
        built = time.perf_counter() - started
        contestants: dict[str, Callable[[], object]] = {
            KNOWN: lambda: open_store(first=False),
            COMPARED: lambda: open_store(first=True),
            "open, all files and SHA-256": lambda: open_store(first=True, thorough=True),
            "states of the files alone": lambda: [file_state(path) for path in table.paths],
            STATES: lambda: HashIndex(table.root, cache).of(table.paths, workers),
            READING: lambda: HashIndex(table.root, cache).of(table.paths, workers, trusting=False),
            "open, blocks read from disk": open_cold,
        }
        rounds: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(options.rounds + 1):
            for name, run in contestants.items():
                started = time.perf_counter()
                run()
                if number:  # the first round warms up
                    rounds[name].append(1e3 * (time.perf_counter() - started))
        size = store.images.nbytes
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    reference = medians[KNOWN]
    print(f"{options.images:,} images, {size / 1e6:.0f} MB of pixels, {workers} cores; built in {built:.1f} s")
    print(f"{'':30}{'median ms':>10}{'least':>8}{'most':>8}{'ratio':>8}")
    for name, median in medians.items():
        print(f"{name:30}{median:10.1f}{min(rounds[name]):8.1f}{max(rounds[name]):8.1f}{median / reference:8.2f}")
    print(f"comparing every block: {medians[COMPARED] - reference:.0f} ms")
    print(f"states instead of reading: 1 : {medians[READING] / medians[STATES]:.1f}")
    if options.json:
        machine = {"cores": workers, "numpy": np.__version__, "system": platform.platform()}
        options.json.write_text(json.dumps({"machine": machine, "milliseconds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
