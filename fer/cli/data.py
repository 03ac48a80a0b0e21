"""fer-data: check a data set, print its statistics, write a noise list, make demo faces, look after the cache."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from fer.config.cache_folder import default_cache_dir
from fer.config.command_parser import CommandParser, command_parser, file_path, whole_number
from fer.config.compose import compose
from fer.config.hydra_errors import explain_mistake
from fer.config.quoting import quote_foreign_paths
from fer.data.cache_contents import cache_entries
from fer.data.label_list import write_label_list
from fer.data.loading.prepare import Noise, Reader, prepare, read_labels
from fer.data.noise import fingerprint, transition_counts
from fer.data.table import DatasetError, IntArray, SampleTable
from fer.data.transition_matrix import write_matrix
from fer.errors import ConfigError
from fer.files.atomic import replacing
from fer.files.terminal import say
from fer.files.visible_text import tell_apart, visible_name
from fer.runs.protocol import protocol_named

_OVERRIDES = "Hydra overrides as for fer-train, such as data=raf_db data.root=PATH noise=symmetric noise.ratio=0.3"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 for a data set or noise that cannot be used; 2 for a configuration that cannot be composed."""
    arguments = parser().read(argv)
    run: Callable[[argparse.Namespace], None] = arguments.run
    try:
        run(arguments)
    except (HydraException, OmegaConfBaseException) as error:
        say(f"fer-data: {explain_mistake(error, arguments.overrides)}", to_stderr=True)
        return 2
    except ConfigError as error:
        say(f"fer-data: {error}", to_stderr=True)
        return 2
    except DatasetError as error:
        say(f"fer-data: {error.report()}", to_stderr=True)
        return 1
    except (ValueError, OSError) as error:
        say(f"fer-data: {error}", to_stderr=True)
        return 1
    return 0


def parser() -> CommandParser:
    """Make the parser of the command line."""
    made = command_parser(
        "fer-data",
        (__doc__ or "").partition(": ")[2].capitalize(),
        ["fer-data check data=raf_db data.root=PATH", "fer-data noise noise.txt data=raf_db data.root=PATH noise=pair"],
    )
    verbs = made.add_subparsers(required=True, metavar="VERB")

    def add(name: str, run: Callable[[argparse.Namespace], None], text: str) -> CommandParser:
        verb = verbs.add_parser(name, help=text, description=f"{text.capitalize()}.")
        verb.set_defaults(run=run)
        return verb

    check_ = add("check", check, "read and decode a data set; list every fault, or its counts and warnings")
    stats_ = add("stats", stats, "print class counts and imbalance, with noise also the transition counts")
    noise_ = add("noise", noise, "write the training labels with noise as a list in the published format")
    demo_ = add("demo", demo, "make a folder of procedural demo faces and a contact sheet")
    cache_ = add("cache", cache, "list or clear what is kept of data sets: decoded images, hashes, faces")
    cache_.add_argument(
        "act", choices=("list", "clear"), help="clear deletes; what a run needs again is made again from the data set"
    )
    cache_.add_argument(
        "--cache-dir", default=default_cache_dir(), metavar="DIR",
        help="the folder (default: $FER_CACHE, or ~/.cache/fer)",
    )  # fmt: skip
    cache_.add_argument(
        "--unused-for", type=whole_number(0), default=0, metavar="DAYS",
        help="only what nobody has read for so many days (default: %(default)s, everything)",
    )  # fmt: skip
    noise_.add_argument(
        "out", type=file_path, metavar="OUT.txt", help="list to write; an existing file is not overwritten"
    )
    for verb in (check_, stats_, noise_):
        verb.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=_OVERRIDES)
    stats_.add_argument(
        "--matrix", type=file_path, metavar="OUT.yaml",
        help="write the transition matrix as an option of the noise group: with OUT.yaml = FOLDER/noise/NAME.yaml, "
        "fer-train --config-dir FOLDER noise=NAME draws labels from it (default: not written)",
    )  # fmt: skip
    demo_.add_argument("folder", type=file_path, metavar="FOLDER", help="folder to write to")
    for name, least, default, text in (
        ("--train", 1, 1400, "training images"),
        ("--test", 1, 420, "test images"),
        ("--seed", 0, 0, "other seeds give other faces"),
    ):
        shown = f"{text} (default: %(default)s)"
        demo_.add_argument(name, type=whole_number(least), default=default, metavar="N", help=shown)
    return made


def check(arguments: argparse.Namespace) -> None:
    config = _compose(arguments.overrides)
    table, given, store = prepare(
        *_reader_and_noise(config),
        size=config.data.store_size,
        cache_dir=config.cache_dir if config.image_cache else None,
        on_bad_image=config.data.on_bad_image,
        thorough=True,
        needs_test=_needs_test(config),
    )
    from fer.data.images.duplicates import find_duplicates  # the only verb that hashes pictures

    say(_summary(table))
    _show(_counts(table, None))
    for warning in (*table.warnings, *store.warnings, *find_duplicates(table, store)):
        say(f"warning: {warning}")
    say(_changed(table, given))
    say(f"decoded images in {store.path}, fingerprint {store.content_fingerprint}")
    say(f"read all {len(table.paths):,} image files in full and compared all decoded pixels with the fingerprint")


def stats(arguments: argparse.Namespace) -> None:
    config = _compose(arguments.overrides)
    table, given = read_labels(*_reader_and_noise(config), needs_test=_needs_test(config))
    clean = table.labels[table.train]
    changed = bool((given != clean).any())
    say(_summary(table))
    _show(_counts(table, given if changed else None))
    counts = table.class_counts(table.train)
    if counts.min() > 0:
        ratio = counts.max() / counts.min()
        names = table.class_names
        say(f"imbalance {ratio:.1f} : 1 ({names[counts.argmax()]} to {names[counts.argmin()]}, train)")
    say(_changed(table, given))
    if changed:
        _show(_transitions(table, given))
    if arguments.matrix is not None:
        write_matrix(arguments.matrix, table, given)
        say(f"{arguments.matrix}: the transition matrix")


def noise(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    if "=" in out.name:
        raise ValueError(f"'{out}' looks like an override; the list to write comes first: fer-data noise OUT.txt ...")
    if out.exists():
        raise FileExistsError(f"{out} exists and is not overwritten; remove it or choose another name")
    config = _compose(arguments.overrides)
    table, given = read_labels(*_reader_and_noise(config), needs_test=_needs_test(config))
    names = table.file_names
    write_label_list(out, [names[row] for row in table.train], given)
    say(f"{out}: {_changed(table, given)}")


def demo(arguments: argparse.Namespace) -> None:
    from fer.data.readers import demo as faces

    faces.write(arguments.folder, train=arguments.train, test=arguments.test, seed=arguments.seed)
    sheet = arguments.folder / "contact_sheet.png"
    with replacing(sheet) as unfinished:
        faces.contact_sheet(seed=arguments.seed).save(unfinished, "PNG")
    say(f"{arguments.train:,} training and {arguments.test:,} test faces in {arguments.folder}; see {sheet}")


def cache(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.cache_dir).expanduser()
    entries = [entry for entry in cache_entries(folder) if entry.days >= arguments.unused_for]
    grid = Table("MB", "days unused", "kind", "name", box=None)
    gone = [entry for entry in entries if entry.remove()] if arguments.act == "clear" else entries
    for entry in gone:
        grid.add_row(f"{entry.size / 1e6:,.1f}", f"{entry.days:.0f}", entry.kind, visible_name(entry.name))
    if gone:
        _show(grid)
    said = "deleted from" if arguments.act == "clear" else "in"
    say(f"{sum(entry.size for entry in gone) / 1e6:,.1f} MB {said} {folder}")
    if len(gone) < len(entries):
        say(f"{len(entries) - len(gone)} left: a process is just making them")


def _compose(overrides: list[str]) -> DictConfig:
    config = compose(quote_foreign_paths(overrides))
    groups = ("data", "noise")
    missing = [f"{name}.{key}" for name in groups for key in config[name] if OmegaConf.is_missing(config[name], key)]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be given: add {' '.join(f'{key}=...' for key in missing)}")
    return config


def _needs_test(config: DictConfig) -> bool:
    return not protocol_named(config.protocol).tests_on_fold


def _reader_and_noise(config: DictConfig) -> tuple[Reader, Noise]:
    # Bound here and called later, so that their own errors arrive and not Hydra's report of them.
    reader: partial[SampleTable] = instantiate(config.data.reader, _partial_=True, _convert_="all")
    make: partial[IntArray] = instantiate(config.noise, _convert_="all")
    return reader, make


def _show(grid: Table) -> None:
    Console(markup=False, highlight=False, emoji=False).print(grid)


def _summary(table: SampleTable) -> str:
    return (
        f"{table.name} in {table.root}: {len(table.train):,} training and {len(table.test):,} test images, "
        f"{table.num_classes} classes"
    )


def _changed(table: SampleTable, given: IntArray) -> str:
    changed = int((given != table.labels[table.train]).sum())
    share = changed / max(1, len(given))
    return f"{changed:,} of {len(given):,} training labels changed ({share:.2%}), fingerprint {fingerprint(given)}"


def _counts(table: SampleTable, given: IntArray | None) -> Table:
    train, test = table.class_counts(table.train), table.class_counts(table.test)
    columns = {"train": train, "test": test}
    grid = Table("class", box=None)
    for name in ("train", "test", "share of train"):
        grid.add_column(name, justify="right")
    noisy = None
    if given is not None:
        grid.add_column("train with noise", justify="right")
        noisy = transition_counts(table.labels[table.train], given, table.num_classes).sum(axis=0)
    for label, name in enumerate(table.class_names):
        cells = [f"{counts[label]:,}" for counts in columns.values()] + [f"{train[label] / max(1, train.sum()):.1%}"]
        grid.add_row(name, *cells, *([] if noisy is None else [f"{noisy[label]:,}"]))
    total = [f"{train.sum():,}", f"{test.sum():,}", "", *([] if noisy is None else [f"{noisy.sum():,}"])]
    grid.add_row("all", *total)
    return grid


def _transitions(table: SampleTable, given: IntArray) -> Table:
    grid = Table("true \\ given", box=None)
    for name in tell_apart([name[:9] for name in table.class_names]):
        grid.add_column(name, justify="right")
    for name, row in zip(
        table.class_names, transition_counts(table.labels[table.train], given, table.num_classes), strict=True
    ):
        grid.add_row(name, *(f"{count}" for count in row))
    return grid


if __name__ == "__main__":
    sys.exit(main())
