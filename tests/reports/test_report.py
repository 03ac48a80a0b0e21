"""fer-report: a cell is one configuration over its seeds, every run is accounted for, every format says the same."""

from __future__ import annotations

import csv
import html.parser
import io
import itertools
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.project import PROJECT
from support.run_folders import write_run

from fer.cli import report
from fer.files.visible_text import tell_apart
from fer.reports import formats, published
from fer.reports.document import Document, Entry, Grid
from fer.reports.epochs import RunEpochs, epochs_of_networks, epochs_of_results, read_epochs
from fer.reports.run import Run
from fer.reports.table import arrange
from fer.runs.run_folder import FORMAT

HOSTILE = r"<script>alert('x')</script>_a_|50% & $x^2$ #{b}~ \c *d* [e]"

Lines = list[dict[str, str]]
Report = Callable[..., str]
Rows = Callable[..., Lines]


@pytest.fixture
def text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Report:
    """``text("--format", "csv")`` is what fer-report prints about the runs in ``tmp_path``."""

    def call(*options: str) -> str:
        report.main([str(tmp_path), *options])
        return capsys.readouterr().out

    return call


@pytest.fixture
def lines(text: Report) -> Rows:
    """The lines of the CSV report, without published numbers."""

    def call(*options: str) -> Lines:
        return list(csv.DictReader(io.StringIO(text("--no-published", "--format", "csv", *options))))

    return call


@pytest.fixture
def sweep(tmp_path: Path) -> dict[tuple[str, float], list[float]]:
    """Two methods by two noise ratios by three seeds; the accuracies in percent."""
    generator = np.random.default_rng(0)
    accuracies = defaultdict(list)
    for method, ratio, seed in itertools.product(("ce", "eac"), (0.1, 0.3), range(3)):
        accuracy = generator.uniform(0.5, 0.9)
        accuracies[method, ratio].append(100 * accuracy)
        settings = {"method": method, "noise.ratio": ratio, "seed": seed}
        write_run(tmp_path / f"{method}-{ratio}" / f"seed{seed}", settings, accuracy=accuracy)
    return accuracies


def markdown_table(text: str) -> list[list[str]]:
    """Header and lines of the first table."""
    table = [line for line in text.split("\n\n")[1].splitlines() if line.startswith("|")]
    return [[field.strip() for field in line.strip("|").split(" | ")] for line in (table[0], *table[2:])]


class TableReader(html.parser.HTMLParser):
    """Texts of the fields of every row, and all tags and addresses of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        self.inside = tag in ("td", "th", "b")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def shown(values: Iterable[float]) -> str:
    values = list(values)
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f} (n={len(values)})"


def test_cells_are_mean_and_deviation_over_seeds(sweep: dict[tuple[str, float], list[float]], lines: Rows) -> None:
    table = {(line["method"], float(line["noise.ratio"])): line for line in lines("--metric", "test/acc")}
    assert table.keys() == sweep.keys()
    for place, accuracies in sweep.items():
        assert float(table[place]["mean"]) == pytest.approx(np.mean(accuracies))
        assert float(table[place]["sd"]) == pytest.approx(np.std(accuracies, ddof=1))
        assert (table[place]["n"], table[place]["seeds"]) == ("3", "0 1 2")


def test_all_formats_hold_the_same_table(sweep: dict[tuple[str, float], list[float]], text: Report) -> None:
    expected = [
        ["method", "protocol", "noise.ratio=0.1", "noise.ratio=0.3"],
        *([method, "last5", *(shown(sweep[method, ratio]) for ratio in (0.1, 0.3))] for method in ("ce", "eac")),
    ]
    options = ("--metric", "test/acc", "--no-published", "--format")
    assert markdown_table(text(*options, "markdown")) == expected
    page = text(*options, "html")
    assert TableReader(page).rows == expected

    latex = text(*options, "latex")
    body = re.search(r"\\toprule\n(.*)\\bottomrule", latex, re.DOTALL)
    assert body
    plain = re.sub(r"\\textbf{(.*?)}", r"\1", body[1]).replace(r"$\pm$", "±").replace("\\midrule\n", "")
    assert [line.removesuffix(r" \\").split(" & ") for line in plain.splitlines()] == expected
    for ratio in (0.1, 0.3):
        best = max(("ce", "eac"), key=lambda method: np.mean(sweep[method, ratio]))
        assert rf"\textbf{{{shown(sweep[best, ratio])}}}" in latex.replace(r"$\pm$", "±")
    assert latex.count(r"\textbf") == page.count("<b>") == 2

    terminal = text(*options, "terminal")
    words = " ".join(re.sub(r"[│┃]", " ", terminal).split())
    assert all(f"{np.mean(accuracies):.2f} ±" in words for accuracies in sweep.values())


def test_the_calibration_error_is_best_where_it_is_least(
    sweep: dict[tuple[str, float], list[float]], text: Report
) -> None:
    best = min(("ce", "eac"), key=lambda method: 90 - np.mean(sweep[method, 0.1]))
    latex = text("--metric", "test/ece", "--where", "noise.ratio=0.1", "--format", "latex")
    assert re.search(rf"^{best} .*textbf", latex, re.MULTILINE) and latex.count(r"\textbf") == 1


def test_where_keeps_the_runs_that_fulfil_every_condition(
    sweep: dict[tuple[str, float], list[float]], lines: Rows
) -> None:
    kept = lines("--metric", "test/acc", "--where", "noise.ratio=0.30", "--where", "seed=0,2", "--rows", "method,seed")
    assert [(line["method"], line["seed"]) for line in kept] == [("ce", "0"), ("ce", "2"), ("eac", "0"), ("eac", "2")]
    assert float(kept[1]["mean"]) == pytest.approx(sweep["ce", 0.3][2]) and kept[1]["sd"] == ""


def test_where_knows_lists_and_what_is_not_set(tmp_path: Path, lines: Rows) -> None:
    for area, samples in (([0.1, 0.2], None), ([0.1, 0.3], 500)):
        write_run(tmp_path / str(samples), {"augment.erase_area": area, "train_samples": samples})
    for condition, kept in (("augment.erase_area=[0.1, 0.3]", "500"), ("train_samples=null", "")):
        assert {line["train_samples"] for line in lines("--where", condition, "--rows", "train_samples")} == {kept}


def test_columns_are_headed_by_options_and_by_keys_with_values(tmp_path: Path, text: Report) -> None:
    for batch_size, backbone in itertools.product((16, 32), ("resnet18", "resnet34")):
        write_run(tmp_path / f"{batch_size}{backbone}", {"batch_size": batch_size, "backbone": backbone})
    header = markdown_table(text("--cols", "backbone,batch_size", "--metric", "test/f1"))[0]
    assert header[2:] == [f"{name}, batch_size={size}" for name in ("resnet18", "resnet34") for size in (16, 32)]


def test_rows_and_columns_are_chosen_by_any_key(sweep: dict[tuple[str, float], list[float]], text: Report) -> None:
    header, *body = markdown_table(
        text("--rows", "noise.ratio,backbone", "--cols", "method", "--metric", "test/acc", "--no-published")
    )
    assert header == ["noise.ratio", "backbone", "protocol", "ce", "eac"]
    assert [line[:3] for line in body] == [["0.1", "resnet18", "last5"], ["0.3", "resnet18", "last5"]]
    assert body[1][3:] == [shown(sweep["ce", 0.3]), shown(sweep["eac", 0.3])]


def test_a_key_that_differs_becomes_a_row_key_instead_of_being_averaged(tmp_path: Path, lines: Rows) -> None:
    for lr, lam, seed in itertools.product((1e-4, 2e-4), (1.0, 5.0), (0, 1)):
        settings = {"optim.lr": lr, "method.lam": lam, "seed": seed}
        write_run(tmp_path / f"{lr}{lam}{seed}", settings, accuracy=0.5 + 100 * lr + lam / 100 + seed / 10)
    table = lines("--rows", "backbone", "--metric", "test/acc")
    assert {(line["optim.lr"], line["method.lam"]) for line in table} == {
        ("0.0001", "1.0"), ("0.0001", "5.0"), ("0.0002", "1.0"), ("0.0002", "5.0"),
    }  # fmt: skip
    assert float(table[0]["mean"]) == pytest.approx(50 + 1 + 1 + 5) and table[0]["n"] == "2"


def test_consequences_of_a_choice_names_of_presets_and_unnamed_keys_make_no_rows(tmp_path: Path, text: Report) -> None:
    for number, (backbone, method) in enumerate(itertools.product(("resnet18", "resnet50"), ("ce", "eac"))):
        settings = {
            "backbone": backbone, "method": method, "choices.experiment": f"{method}_raf_db",
            "num_workers": number, "data.root": f"/data/{number}",
        }  # fmt: skip
        write_run(tmp_path / str(number), settings)
    header, *body = markdown_table(text("--metric", "test/acc", "--no-published"))
    assert header == ["method", "backbone", "protocol", "accuracy"] and len(body) == 4


def test_a_noise_seed_that_follows_the_seed_is_averaged_and_one_that_does_not_is_split(
    tmp_path: Path, lines: Rows
) -> None:
    for seed in range(3):
        write_run(tmp_path / "together" / str(seed), {"seed": seed, "noise.seed": seed})
    assert [line["n"] for line in lines("--metric", "test/acc")] == ["3"]
    write_run(tmp_path / "apart", {"seed": 0, "noise.seed": 2})
    table = lines("--metric", "test/acc")
    assert {(line["noise.seed"], line["n"]) for line in table} == {("0", "1"), ("1", "1"), ("2", "2")}


def test_protocols_are_named_and_never_averaged_together(tmp_path: Path, lines: Rows, text: Report) -> None:
    for method, protocol, accuracy in (("ce", "last5", 0.9), ("ce", "holdout", 0.7), ("eac", "holdout", 0.8)):
        write_run(tmp_path / f"{method}-{protocol}", {"method": method, "protocol": protocol}, accuracy=accuracy)
    found = {(line["method"], line["protocol"]): float(line["mean"]) for line in lines("--metric", "test/acc")}
    assert found == {
        ("ce", "last5"): pytest.approx(90), ("ce", "holdout"): pytest.approx(70), ("eac", "holdout"): pytest.approx(80)
    }  # fmt: skip
    printed = text("--where", "method=eac", "--no-published")
    assert "Protocol holdout: test of the epoch selected on held-out" in printed and "last5" not in printed
    # Only results of one protocol compete to be the best.
    (best,) = re.findall(r".*\\textbf.*", text("--metric", "test/acc", "--format", "latex", "--no-published"))
    assert best.startswith("eac & holdout")


def test_every_run_is_accounted_for(tmp_path: Path, text: Report, lines: Rows) -> None:
    states = {("ce", 0.1): ["done", "done", "failed"], ("ce", 0.3): ["failed"] * 3, ("eac", 0.1): ["incomplete"]}
    for (method, ratio), members in states.items():
        for seed, state in enumerate(members):
            settings = {"method": method, "noise.ratio": ratio, "seed": seed}
            write_run(tmp_path / f"{method}{ratio}{seed}", settings, state=state, accuracy=0.5 + seed / 10)
    printed = text("--metric", "test/acc", "--no-published")
    _, ce, eac = markdown_table(printed)
    assert ce[2:] == ["55.00 ± 7.07 (n=2, 1 failed)", "failed (3)"]
    assert eac[2:] == ["incomplete (1)", "–"]
    for folder in ("ce0.12", "ce0.30", "ce0.31", "ce0.32"):
        assert f"failed: {tmp_path / folder}: RuntimeError: out of" in printed
    counts = [(line["n"], line["failed"], line["incomplete"]) for line in lines("--metric", "test/acc")]
    assert counts == [("2", "1", "0"), ("0", "3", "0"), ("0", "0", "1")]


def test_one_seed_has_no_deviation(tmp_path: Path, text: Report) -> None:
    write_run(tmp_path / "run", {}, accuracy=0.75)
    assert markdown_table(text("--metric", "test/acc", "--no-published"))[1][2] == "75.00 (n=1)"


def test_mean_class_accuracy_stands_beside_accuracy_in_several_columns(tmp_path: Path, text: Report) -> None:
    for ratio in (0.1, 0.3):
        write_run(tmp_path / str(ratio), {"noise.ratio": ratio}, accuracy=0.9 - ratio)
    header, line = markdown_table(text("--no-published"))
    names = [f"{metric}, noise.ratio={ratio}" for metric in ("accuracy", "mean class accuracy") for ratio in (0.1, 0.3)]
    assert header[2:] == names
    assert line[2:] == ["80.00 (n=1)", "60.00 (n=1)", "70.00 (n=1)", "50.00 (n=1)"]


def test_default_metrics_and_the_optimistic_one(tmp_path: Path, text: Report) -> None:
    write_run(tmp_path / "run", {"noise.ratio": 0.2}, accuracy=0.75)
    header, line = markdown_table(text("--no-published"))
    assert header[2:] == ["accuracy", "mean class accuracy", "memorized", "recovered"]
    assert line[2:] == ["75.00 (n=1)", "65.00 (n=1)", "20.00 (n=1)", "60.00 (n=1)"]
    printed = text("--metric", "best,test/f1", "--no-published")
    header, line = markdown_table(printed)
    assert header[2:] == ["best test epoch (optimistic)", "macro F1"]
    assert line[2:] == ["77.00 (n=1)", "63.00 (n=1)"]
    assert "selected on the test set" in printed


def test_a_repeated_run_counts_once_and_is_named(tmp_path: Path, text: Report) -> None:
    write_run(tmp_path / "a", {"seed": 1}, state="failed")
    write_run(tmp_path / "b" / "c", {"seed": 1, "output_dir": "elsewhere"}, accuracy=0.7)
    printed = text("--metric", "test/acc", "--no-published")
    assert markdown_table(printed)[1][2] == "70.00 (n=1)"
    assert f"left out: {tmp_path / 'a'} repeats {tmp_path / 'b' / 'c'}" in printed


def test_a_run_without_some_images_is_named(tmp_path: Path, text: Report) -> None:
    for seed in (0, 1):
        file = write_run(tmp_path / f"run{seed}", {"seed": seed}) / "result.json"
        left_out = {"train": 1200 * seed, "test": 0}
        file.write_text(json.dumps({**json.loads(file.read_text()), "skipped_images": left_out}))
    printed = text("--metric", "test/acc", "--no-published")
    named = f"{tmp_path / 'run1'} was trained and tested without 1,200 train and 0 test images that cannot be decoded"
    assert named in printed and "run0" not in printed


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("result.json", "{", "cannot be read"),
        ("result.json", "[1]", "no run's result"),
        ("result.json", '{"metrics": {"test/acc": "high"}, "after_training": {}}', "no run's result"),
        ("result.json", '{"metrics": {}, "after_training": {}, "skipped_images": 3}', "no run's result"),
        ("config.yaml", "a: [", "cannot be read"),
        ("config.yaml", "a: 1", "lacks choices"),
        ("config.yaml", "", "no configuration"),
    ],
)
def test_a_corrupt_run_is_named_and_the_others_are_shown(
    file: str, content: str, message: str, tmp_path: Path, text: Report
) -> None:
    write_run(tmp_path / "good", {"seed": 0}, accuracy=0.7)
    (write_run(tmp_path / "bad", {"seed": 1}) / file).write_text(content)
    printed = text("--metric", "test/acc", "--no-published")
    assert markdown_table(printed)[1][2] == "70.00 (n=1)"
    assert re.search(rf"left out: .*bad/{file}.*{message}", printed)


@pytest.mark.parametrize("content", [b"\xff\xfe", b'{"epoch": 0}\n{"epoch"', b"1\n2\n3\n4\n5\n6\n7\n"])
def test_corrupt_records_cost_the_learning_curve_only(content: bytes, tmp_path: Path, text: Report) -> None:
    (write_run(tmp_path / "run", {}, accuracy=0.7) / "records.jsonl").write_bytes(content)
    printed = text("--metric", "test/acc", "--no-published")
    assert markdown_table(printed)[1][2] == "70.00 (n=1)"
    assert re.search(r"without learning curve: .*run/records\.jsonl", printed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "noise.ratio=0.7"], "no run under .* with noise.ratio=0.7"),
        (["--where", "seed"], "key=value"),
        (["--where", "method.lamda=1"], "'method.lamda'; near it: method.lam"),
        (["--rows", "metod"], "'metod'; near it: method"),
        (["--cols", "no.such"], "'no.such'"),
        (["--metric", "test/accuracy"], "'test/accuracy'; there are .*test/acc"),
        (["--against", "sgd"], "no run has method=sgd, only eac"),
        (["--against", "seed=1"], "seed is no row key .*method, protocol"),
        (["--output", "nowhere/table.md"], "cannot write nowhere/table.md"),
        (["--plots", "/dev/null/plots"], "cannot write figures"),
    ],
)
def test_options_that_do_not_fit_the_runs_are_named(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run", {})
    with pytest.raises(SystemExit) as exit_:
        report.main([str(tmp_path), *options])
    assert exit_.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_folders_without_runs_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, message in ((tmp_path, "no run under"), (tmp_path / "nowhere", "is no folder")):
        with pytest.raises(SystemExit):
            report.main([str(folder)])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("suffix", "start"),
    [(".csv", "method,"), (".tex", "% needs"), (".html", "<!DOCTYPE"), (".md", "**"), (".txt", "**")],
)
def test_output_goes_to_a_file_in_the_format_of_its_name(suffix: str, start: str, tmp_path: Path, text: Report) -> None:
    write_run(tmp_path / "run", {})
    file = tmp_path / f"table{suffix}"
    assert text("--output", str(file)) == ""
    assert file.read_text(encoding="utf-8").startswith(start)


def test_hostile_names_stay_text_in_every_format(
    tmp_path: Path, text: Report, lines: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, state in enumerate(("done", "failed")):
        write_run(tmp_path / str(seed), {"choices.method": HOSTILE, "seed": seed}, state=state, accuracy=0.7)
    assert {line["method"] for line in lines()} == {HOSTILE}
    page = TableReader(text("--format", "html", "--plots", str(tmp_path / "plots")))
    assert page.rows[1][0] == HOSTILE and "script" not in page.tags
    assert page.addresses and all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    markdown = text("--format", "markdown")
    assert "<script" not in markdown and r"\|50%" in markdown and "out of &lt;memory&gt; &amp; luck_50%" in markdown
    latex = text("--format", "latex", "--metric", "test/acc")
    (row,) = (line for line in latex.splitlines() if "script" in line and not line.startswith("%"))
    assert (
        r"\_a\_\textbar{}50\% \& \$x\textasciicircum{}2\$ \#\{b\}\textasciitilde{} \textbackslash{}c *d* {[}e{]}" in row
    )
    assert len(re.findall(r"(?<!\\)&", row)) == 2
    monkeypatch.setenv("COLUMNS", "300")
    assert HOSTILE in text("--format", "terminal")


@given(st.lists(st.tuples(st.text(max_size=12), st.booleans()), min_size=2, max_size=2))
def test_any_text_keeps_its_place_in_the_grid(fields: list[tuple[str, bool]]) -> None:
    document = Document([Grid("t", ["a", "b"], [[Entry(*field) for field in fields]], "lr")], [], [])
    page = TableReader(formats.html(document))
    assert page.rows[1] == [text for text, _ in fields]
    latex = formats.latex(document).split("\\midrule\n")[1].split("\n\\bottomrule")[0]
    assert latex.endswith(r" \\") and "\n" not in latex
    assert len(re.findall(r"(?<!\\)&", latex)) == 1
    markdown = formats.markdown(document).split("\n\n")[1].split("\n")
    assert len(markdown) == 3 and len(re.findall(r"(?<!\\)\|", markdown[2])) == 3


KEYS = ("method", "backbone", "optim.lr", "method.lam", "noise.ratio", "noise.seed")


def runs_of(settings: Iterable[dict[str, Any]]) -> list[Run]:
    return [
        Run(Path(str(number)), "done", {"protocol": "last5", **values}, frozenset(KEYS), {}, [], "")
        for number, values in enumerate(settings)
    ]


@given(
    st.lists(
        st.fixed_dictionaries({**{key: st.integers(0, 2) | st.none() for key in KEYS}, "seed": st.integers(0, 3)}),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.sampled_from(KEYS), unique=True),
    st.lists(st.sampled_from(KEYS), unique=True),
)
def test_whatever_is_chosen_a_cell_differs_in_seeds_only(
    settings: list[dict[str, Any]], rows: list[str], columns: list[str]
) -> None:
    runs = runs_of(settings)
    table = arrange(runs, rows, columns)
    assert sorted(run.path for run in table.runs) == sorted(run.path for run in runs)
    follows = all(run.settings["noise.seed"] == run.seed for run in runs)
    for cell in table.cells.values():
        for key in {*KEYS} - ({"noise.seed"} if follows else set()):
            assert len({run.settings[key] for run in cell.runs}) == 1


def write_raf_db(folder: Path, **more: Any) -> None:
    for method, backbone, ratio in itertools.product(("ce", "eac"), ("resnet18", "tiny"), (0.1, 0.3)):
        settings = {"method": method, "backbone": backbone, "noise.ratio": ratio, **more}
        write_run(folder / f"{method}{backbone}{ratio}", settings, accuracy=0.5)


def test_published_numbers_stand_beside_what_they_are_comparable_with(tmp_path: Path, text: Report) -> None:
    write_raf_db(tmp_path)
    printed = text("--metric", "test/acc")
    rows = [line for line in markdown_table(printed)[1:] if "published" in line[0]]
    assert ["resnet18", "last5", "88.02", "84.42"] in [row[1:] for row in rows if row[0].startswith("eac, published [")]
    assert ["resnet18", "not stated", "81.01", "75.50"] in [row[1:] for row in rows if row[0].startswith("ce, pub")]
    assert {row[1] for row in rows} == {"resnet18", "not stated"}
    assert ["resnet18", "not stated", "90.12", "87.56"] in [row[1:] for row in rows if row[0].startswith("otp_ns, pub")]
    assert "published, not measured here: reprinted by LA-Net" in printed
    own = [line for line in markdown_table(printed)[1:] if "published" not in line[0]]
    assert {field for line in own for field in line[3:]} == {"50.00 (n=1)"}
    assert "published" not in text("--metric", "test/acc", "--no-published")
    assert "published" not in text("--metric", "test/f1")
    assert "published" not in text("--metric", "test/acc", "--cols", "protocol")
    machine = list(csv.DictReader(io.StringIO(text("--metric", "test/acc", "--format", "csv"))))
    numbers = [line for line in machine if line["source"]]
    assert {line["published"] for line in numbers if line["method"] == "eac"} == {"88.02", "84.42"}
    assert all(line["mean"] == line["n"] == "" for line in numbers)


@pytest.mark.parametrize(
    "more",
    [
        {"data": "demo"},
        {"noise": "pair"},
        {"train_samples": 1000},
        {"data.reader.expected": None},
    ],
)
def test_other_data_or_noise_has_no_published_numbers(more: dict[str, Any], tmp_path: Path, text: Report) -> None:
    write_raf_db(tmp_path, **more)
    assert "published" not in text("--metric", "test/acc")


def test_published_table_is_well_formed() -> None:
    file = PROJECT / "fer" / "reports" / "published.csv"
    table = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    keys = [(*(line[key] for key in line if key != "value"),) for line in table]
    assert len({*keys}) == len(keys)
    for line in table:
        assert line["data"] == "raf_db" and line["metric"] == "test/acc" and 50 < float(line["value"]) < 95
        assert (line["noise"] == "none") == (float(line["noise_ratio"]) == 0)
        backbone = PROJECT / "conf" / "backbone" / f"{line['backbone']}.yaml"
        assert backbone.is_file() or line["backbone"] == "not stated"
        assert all(line[key] for key in line)
    assert sum(map(len, published._numbers().values())) == len(table)


def test_help_is_instant() -> None:
    slow = "torch|scipy|matplotlib|yaml|rich|numpy"
    code = f"import sys, re, fer.cli.report; print([name for name in sys.modules if re.fullmatch({slow!r}, name)])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def write_stamp(folder: Path, images: str, clean: str) -> None:
    (folder / "stamp.json").write_text(
        json.dumps({"format": FORMAT, "data": {"images": images}, "labels": {"clean": clean}})
    )


def test_two_data_sets_of_one_name_never_share_a_cell(tmp_path: Path, lines: Rows, text: Report) -> None:
    for seed, (images, accuracy) in enumerate((("one", 0.9), ("one", 0.8), ("two", 0.3))):
        folder = write_run(tmp_path / f"run{seed}", {"seed": seed}, accuracy=accuracy)
        write_stamp(folder, images, "same labels")
    write_run(tmp_path / "failed", {"seed": 9}, state="failed")
    found = {line["data.content"]: line["n"] for line in lines("--metric", "test/acc")}
    assert sorted(found.values()) == ["0", "1", "2"] and len(found) == 3
    for seed in range(3):
        write_stamp(tmp_path / f"run{seed}", "one", "same labels")
    assert "data.content" not in text("--metric", "test/acc")
    write_stamp(tmp_path / "run2", "one", "other labels")
    assert "data.content" in text("--metric", "test/acc")


def test_short_runs_say_over_how_many_epochs_they_are_means(tmp_path: Path, text: Report) -> None:
    for seed, count in enumerate((3, 3)):
        folder = write_run(tmp_path / f"run{seed}", {"seed": seed})
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps({**result, "averaged_epochs": [*range(count)]}))
    assert "Protocol last5: mean of the last 3 epochs." in text()
    write_run(tmp_path / "run2", {"seed": 2})
    assert "Protocol last5: mean of the last 3 to 5 epochs." in text()


@pytest.mark.parametrize(
    ("protocol", "runs", "results", "networks"),
    [
        ("last5", [(60, 5, None)] * 2, "mean of the last 5 epochs", "after epoch 60, the last"),
        ("last5", [(3, 3, None)], "mean of all 3 epochs", "after epoch 3, the last"),
        ("last5", [(1, 1, None)], "test after the only epoch", "after epoch 1, the last"),
        (
            "last5",
            [(2, 2, None), (4, 4, None)],
            "mean of all 2 to 4 epochs",
            "after epochs 2 to 4, the last of each run",
        ),
        ("last5", [(3, 3, None), (60, 5, None)], "mean of the last 3 to 5 epochs", "after epochs 3 to 60, the last of"),
        ("last5", [(None, None, None)], "mean of the last 5 epochs", "after the last epoch"),
        (
            "holdout",
            [(60, None, 7)],
            "on held-out training samples (7)",
            "after epoch 7, selected on held-out training",
        ),
        (
            "holdout",
            [(60, None, 7), (60, None, 9)],
            "samples (7 to 9)",
            "after epochs 7 to 9, each selected on held-out",
        ),
        ("holdout", [(60, None, None)], "test of the epoch selected on", "after the epoch selected on held-out"),
    ],
)
def test_epochs_in_words(
    protocol: str, runs: list[tuple[int | None, int | None, int | None]], results: str, networks: str
) -> None:
    epochs = [RunEpochs(*run) for run in runs]
    assert results in epochs_of_results(protocol, epochs) and networks in epochs_of_networks(protocol, epochs)


@pytest.mark.parametrize("strange", [None, [], {}, "7", True, -1, 1e9, 10**30])
def test_strange_epochs_of_a_result_are_not_known(strange: Any) -> None:
    assert read_epochs({"epochs": strange, "averaged_epochs": 3, "selected_epoch": strange}) == RunEpochs()
    assert read_epochs({"selected_epoch": {"epoch": strange}}) == RunEpochs()


def test_keys_that_no_row_shows_are_listed(tmp_path: Path, text: Report) -> None:
    for backbone in ("resnet18", "resnet50"):
        write_run(tmp_path / backbone, {"backbone": backbone, "seed": 0})
    printed = text("--metric", "test/acc")
    (note,) = (line for line in printed.splitlines() if "Runs differ in keys that no row and no column shows" in line)
    assert "optim.lr" in note and "backbone." in note and "seed" not in note
    assert "no column shows" not in text("--metric", "test/acc", "--where", "backbone=resnet18")


def unshown(printed: str) -> str:
    """The line of keys that no row and no column shows, empty where there is none."""
    lines = [line for line in printed.splitlines() if "no row and no column shows" in line]
    return lines[0].partition("too: ")[2].rstrip(".").replace("\\", "") if lines else ""


@pytest.mark.parametrize("key", ["noise.seed", "noise.first_label"])
@pytest.mark.parametrize("kinds", [("symmetric",), ("symmetric", "pair")])
def test_keys_that_the_noise_determines_are_listed(
    key: str, kinds: tuple[str, ...], tmp_path: Path, text: Report
) -> None:
    for kind, (ratio, value) in itertools.product(kinds, ((0.1, 5), (0.3, 6))):
        write_run(tmp_path / f"{kind}{ratio}", {"noise": kind, "noise.ratio": ratio, key: value})
    assert unshown(text("--metric", "test/acc")) == key
    assert unshown(text("--metric", "test/acc", "--rows", f"method,{key}")) == ""


def test_what_the_option_of_the_noise_alone_brings_is_named_key_by_key(tmp_path: Path, text: Report) -> None:
    for kind, seed in (("none", 0), ("symmetric", 7)):
        write_run(tmp_path / kind, {"noise": kind, "noise.seed": seed})
    assert unshown(text("--metric", "test/acc")) == "noise.seed"


def test_what_a_method_decides_by_the_labels_is_listed(tmp_path: Path, text: Report) -> None:
    for kind, made in (("none", "shared"), ("symmetric", "independent")):
        folder = write_run(tmp_path / kind, {"noise": kind, "method.erase": "released"})
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps({**result, "decided": {"method.erase": made}}))
    decided = "method.erase (decided by whether labels are wrong: independent, shared)"
    assert unshown(text("--metric", "test/acc")) == decided
    assert unshown(text("--metric", "test/acc", "--where", "noise=symmetric")) == ""


@given(st.lists(st.sampled_from(["a", "a (2)", "a (3)", "b", " b", "b ", "", "a  (2)"]), max_size=8))
def test_no_two_headings_look_the_same(headings: list[str]) -> None:
    told = [" ".join(heading.split()) for heading in tell_apart(headings)]
    assert len(told) == len({*told}) == len(headings)
    assert all(heading.startswith(" ".join(given.split())) for heading, given in zip(told, headings, strict=True))


def test_columns_of_values_that_are_written_alike_have_two_headings(tmp_path: Path, text: Report, lines: Rows) -> None:
    for number, samples in enumerate((100, "100", 100.0000000000001)):
        for method in ("ce", "eac"):
            write_run(tmp_path / f"{method}{number}", {"method": method, "train_samples": samples})
    options = ("--cols", "train_samples,train_samples", "--metric", "test/acc", "--no-published")
    expected = ["train_samples=100", "train_samples=100 (2)", "100"]
    printed = text(*options)
    assert {*markdown_table(printed)[0]} == {"method", "protocol", *expected}
    compared = text(*options, "--against", "ce").split("**Differences")[1]
    fields = [line.split(" | ")[2] for line in compared.splitlines() if line.startswith("| eac")]
    assert {*fields} == {f"accuracy, {heading}" for heading in expected}
    (header,) = (line for line in text(*options, "--format", "csv").splitlines() if line.startswith("method"))
    assert header.split(",").count("train_samples") == 1
    plots = tmp_path / "plots"
    text(*options, "--plots", str(plots))
    page = (plots / "test_acc_by_epoch.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {heading} -->" in page for heading in expected)


def test_keys_called_like_a_column_of_numbers_have_a_heading_of_their_own(tmp_path: Path, text: Report) -> None:
    for number in (1, 2):
        folder = write_run(tmp_path / str(number), {})
        config = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump({**config, "n": number}))
    header, *body = csv.reader(io.StringIO(text("--format", "csv", "--metric", "test/acc", "--no-published")))
    assert len({*header}) == len(header) and {"n", "n (2)"} <= {*header}
    assert [line[header.index("n (2)")] for line in body] == ["1", "2"]
    compared = text("--metric", "test/acc", "--against", "n=1").split("**Differences")[1]
    headings = next(line for line in compared.splitlines() if line.startswith("| method")).strip("| ").split(" | ")
    assert len({*headings}) == len(headings)


def test_a_class_without_test_samples_has_a_dash(tmp_path: Path, text: Report) -> None:
    folder = write_run(tmp_path / "run", {"seed": 0})
    result = json.loads((folder / "result.json").read_text())
    result["metrics"]["test/recall/Fear"] = float("nan")
    (folder / "result.json").write_text(json.dumps(result))
    printed = text("--metric", "test/acc,test/recall/Fear")
    assert "nan" not in printed.lower().replace("nano", "")


def test_an_odd_result_costs_its_own_row_only_and_nobody_is_told_to_remove_anything(
    tmp_path: Path, text: Report
) -> None:
    write_run(tmp_path / "good", {"seed": 0}, accuracy=0.7)
    for number, content in enumerate(('{"metrics": []}', '{"metrics": {"test/acc": [1]}}', "[]", '{"metrics": 3}')):
        write_run(tmp_path / f"odd{number}", {"seed": number + 1})
        (tmp_path / f"odd{number}" / "result.json").write_text(content)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.yaml").write_text("- a\n- b\n")
    printed = text("--metric", "test/acc")
    assert "70.00 (n=1" in printed and printed.count("left out:") == 5 and "remove" not in printed


def test_raf_db_is_told_by_its_labels(tmp_path: Path, text: Report) -> None:
    folder = write_run(tmp_path / "run", {"seed": 0, "noise.ratio": 0.3})
    write_stamp(folder, "images", published.RAF_DB_LABELS)
    assert "published" in text("--metric", "test/acc")
    write_stamp(folder, "images", "others")
    assert "published" not in text("--metric", "test/acc")


def test_the_digest_of_raf_db_is_that_of_its_list(shared: Path) -> None:
    from fer.data.label_list import read_label_list
    from fer.data.noise import labels_digest
    from fer.data.readers.raf_db import CLASS_NAMES

    entries, faults = read_label_list(shared / "data" / "raf_labels" / "list_patition_label.txt", CLASS_NAMES)
    assert not faults
    entries.sort(key=lambda entry: (not entry.name.startswith("train_"), len(entry.name), entry.name))
    assert labels_digest(np.array([entry.label for entry in entries])) == published.RAF_DB_LABELS
