"""Settings, results and records of all runs, read from their folders; unreadable parts become faults in the report."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fer.errors import UserError
from fer.files.atomic import is_unfinished
from fer.files.plain_data import PlainDataError
from fer.files.visible_text import visible_name
from fer.reports.epochs import epochs_of_results, read_epochs
from fer.reports.merged_folds import merge_folds
from fer.reports.run import Run
from fer.reports.wording import images_left_out, matches
from fer.runs.run_folder import RunFolder

_NEEDED = {"protocol", "seed", "method", "backbone", "data", "noise"}
# Names of presets; the other keys hold the values that presets set.
_PRESETS = ("experiment", "sweep")


@dataclass
class Collection:
    """Runs by folder, and a line for each that was left out or could be read in part only."""

    runs: list[Run] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def collect(folders: Iterable[Path], conditions: Iterable[str] = ()) -> Collection:
    """Read every run below ``folders`` that fulfills all ``conditions``, each ``key=value`` or ``key=value,value``.

    Of runs that repeat each other one stays, a finished one where there is one. Folds of a cross-validation become one.

    Raises:
        UserError: a folder does not exist, a condition names no key, or no run is left.
    """
    folders = list(folders)
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder")
    found = Collection()
    for file in sorted({file.resolve() for folder in folders for file in folder.rglob("config.yaml")}):
        if is_unfinished(file.parent):
            continue
        try:
            found.runs.append(_read(RunFolder(file.parent), found.faults))
        except UserError as error:
            found.faults.append(f"left out: {error}")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            found.faults.append(f"left out: {file.parent} is no run that can be read ({error!r:.200})")
    found.runs = _with_data_told_apart(found.runs)
    everything = found.runs
    for condition in conditions:
        found.runs = _fulfilling(condition, found.runs, everything)
    if not found.runs:
        reasons = "".join(f"\n  {fault}" for fault in found.faults)
        where = f" with {' and '.join(conditions)}" if everything else ""
        raise UserError(f"no run under {', '.join(map(str, folders))}{where}{reasons}")
    found.runs = merge_folds(list(_without_repetitions(found)), found.faults)
    return found


def check_keys(keys: Iterable[str], runs: Sequence[Run]) -> None:
    """Raise a ``UserError`` for a key that no run has."""
    known = {key for run in runs for key in run.settings}
    for key in keys:
        if key not in known:
            import difflib

            near = difflib.get_close_matches(key, sorted(known), n=3, cutoff=0.5)
            raise UserError(f"no run has the key {key!r}" + (f"; near it: {', '.join(near)}" if near else ""))


def epochs_by_protocol(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """Describe, for each protocol of the runs, the epochs that their results come from."""
    for name in sorted({str(run.settings["protocol"]) for run in runs}):
        yield name, epochs_of_results(name, [run.epochs for run in runs if run.settings["protocol"] == name])


def _read(folder: RunFolder, faults: list[str]) -> Run:
    config = folder.config()
    choices, unnamed = config.pop("choices", None), config.get("unnamed_keys")
    if not isinstance(unnamed, list) or not all(isinstance(key, str) for key in unnamed):
        unnamed = None
    if unnamed is None or not (isinstance(choices, dict) and {"protocol", "seed"} <= config.keys()):
        raise UserError(f"{folder.config_file} is no run's: it lacks choices, protocol, seed or unnamed_keys")
    settings = dict(_flattened(config)) | dict(_flattened(choices))
    if absent := sorted(_NEEDED - settings.keys()):
        raise UserError(f"{folder.config_file} is no run's: it lacks {', '.join(absent)}")
    settings["data.root"] = Path(str(settings.get("data.root", ""))).name  # data may be moved, but not renamed
    outside = ({*unnamed} - {"data.root"}) | {*_PRESETS, "seed"}
    state = folder.state
    result = folder.result() if state == "done" else None
    return Run(
        path=folder.path,
        state=state,
        settings=settings,
        named=frozenset(key for key in settings if not _is_below(key, outside)),
        metrics=_metrics(folder, result, faults) if result is not None else {},
        records=_records(folder, result, faults) if result is not None else [],
        error=folder.error() if state == "failed" else "",
        epochs=read_epochs(result or {}),
        decided=_decided(result or {}),
        **_facts_of_the_data(folder),
    )


def _decided(result: Mapping[str, Any]) -> dict[str, str]:
    decided = result.get("decided")
    if not isinstance(decided, Mapping):
        return {}
    return {visible_name(key): visible_name(value) for key, value in decided.items()}


def _facts_of_the_data(folder: RunFolder) -> dict[str, Any]:
    """Read the digests that a run's stamp holds; there are none before it has one."""
    if not folder.stamp_file.is_file():
        return {}
    try:
        stamp = folder.stamp()
        images, labels = str(stamp["data"]["images"]), str(stamp["labels"]["clean"])
    except (UserError, KeyError, TypeError):
        return {}
    return {"content": hashlib.sha256(f"{images} {labels}".encode()).hexdigest()[:8], "clean_labels": labels}


def _with_data_told_apart(runs: Sequence[Run]) -> list[Run]:
    """Give runs on other images or true labels under one name the key ``data.content``, so that no cell mixes them."""
    contents: dict[tuple[Hashable, Hashable], set[str]] = defaultdict(set)
    for run in runs:
        if run.content is not None:
            contents[run.settings.get("data"), run.settings.get("data.root")].add(run.content)
    return [
        run
        if len(contents[run.settings.get("data"), run.settings.get("data.root")]) < 2
        else replace(run, settings={**run.settings, "data.content": run.content}, named=run.named | {"data.content"})
        for run in runs
    ]


def _flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Hashable]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            text = json.dumps(value, default=str) if isinstance(value, list | Mapping) else value
            yield visible_name(f"{prefix}{name}"), visible_name(text) if isinstance(text, str) else text


def _is_below(key: str, stems: Iterable[str]) -> bool:
    return any(key == stem or key.startswith(f"{stem}.") for stem in stems)


def _metrics(folder: RunFolder, result: Mapping[str, Any], faults: list[str]) -> dict[str, float]:
    """Read the metrics of a finished run, and a fault if it left out images that cannot be decoded."""
    try:
        shares = {**result["metrics"], **result["after_training"]}
        if "best_test_epoch_optimistic" in result:
            shares["best"] = result["best_test_epoch_optimistic"]["test/acc"]
        metrics = {visible_name(key): 100 * float(share) for key, share in shares.items()}
        if left_out := images_left_out(result):
            faults.append(f"{folder.path} was trained and tested without {left_out}")
        return metrics
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{folder.result_file} is no run's result ({error!r})") from error


def _records(folder: RunFolder, result: Mapping[str, Any], faults: list[str]) -> list[dict[str, Any]]:
    """Read the records of a finished run; none, and a fault, if an epoch has no record."""
    try:
        records = [{key: value for key, value in record.items() if _is_number(value)} for record in folder.records()]
    except (OSError, PlainDataError) as error:
        faults.append(f"without learning curve: {folder.records_file} cannot be read: {error}")
        return []
    epochs = result.get("epochs")
    if len(records) != epochs:
        faults.append(f"without learning curve: {folder.records_file} has {len(records)} readable epochs of {epochs}")
        return []
    return records


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def _fulfilling(condition: str, runs: Sequence[Run], everything: Sequence[Run]) -> list[Run]:
    key, equals, text = condition.partition("=")
    if not equals:
        raise UserError(f"--where {condition} must be key=value or key=value,value")
    if everything:
        check_keys([key], everything)
    values = (text, *text.split(","))  # whole as well, for lists
    return [run for run in runs if any(matches(run.settings.get(key), value) for value in values)]


def _without_repetitions(found: Collection) -> Iterator[Run]:
    kept: dict[frozenset[tuple[str, Hashable]], Run] = {}
    for run in sorted(found.runs, key=lambda run: run.state != "done"):
        first = kept.setdefault(run.identity, run)
        if first is not run:
            found.faults.append(f"left out: {run.path} repeats {first.path} (same configuration and seed)")
    yield from sorted(kept.values(), key=lambda run: run.path)
