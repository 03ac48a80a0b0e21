"""CSV files run no formula in a spreadsheet, and give back any text that was written."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fer.files.csv_files import CsvReader, CsvWriter, write_table
from fer.inference.faces import Face
from fer.inference.outputs import ClassifiedFace, CsvFaces
from fer.inference.photographs import Scene
from fer.runs.predictions import read_class_names, read_labels, read_predictions
from fer.runs.run_folder import RunFolder

FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1", "=cmd|' /C calc'!A0", "'=1", "''@x")


def written(*rows: list[Any]) -> str:
    stream = io.StringIO()
    CsvWriter(stream).write_all(rows)
    return stream.getvalue()


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_would_run_is_defused(text: str) -> None:
    ((cell, number),) = csv.reader(io.StringIO(written([text, -3]), newline=""))
    assert cell == f"'{text}" and number == "-3"


@pytest.mark.parametrize(
    "number", [-1, 0.5, -0.25, "-12.5", "+3", "-1e-05", "-.5", np.int64(-4), np.float32(-0.5), None]
)
def test_numbers_stay_numbers(number: Any) -> None:
    ((cell,),) = csv.reader(io.StringIO(written([number])))
    assert cell == ("" if number is None else str(number))


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=12), min_size=2), max_size=5))
@example([[*FORMULAS], ["'", "''", "'a", "a'", '"', ","]])
def test_any_text_comes_back(rows: list[list[str]]) -> None:
    assert [*CsvReader(io.StringIO(written(*rows), newline=""))] == rows


def test_a_run_with_such_names_is_read_back(tmp_path: Path) -> None:
    folder, names = RunFolder(tmp_path), ("=happy", "-sad", "'@x")
    header = [
        "split",
        "file",
        "clean_label",
        "given_label",
        "predicted",
        "confidence",
        *(f"p_{name}" for name in names),
    ]
    rows = [
        [split, f"{name}.png", name, names[0], name, "0.5", "0.5", "0.3", "0.2"]
        for split in ("test", "train")
        for name in names
    ]
    write_table(folder.predictions_file, header, rows)
    write_table(
        folder.noise_file, ["file", "clean_label", "given_label"], [[row[1], row[2], row[3]] for row in rows[3:]]
    )
    assert read_class_names(folder) == names
    assert [sample.given for sample in read_labels(folder)] == [0, 0, 0]
    table = read_predictions(folder)["train"]
    assert table.file == ("=happy.png", "-sad.png", "'@x.png") and table.clean.tolist() == [0, 1, 2]
    for file in (folder.predictions_file, folder.noise_file):
        with file.open(newline="") as stream:
            assert not [cell for row in csv.reader(stream) for cell in row if cell[:1] in "=+-@" and cell]


def test_expressions_of_photographs_keep_negative_coordinates_and_run_nothing() -> None:
    stream = io.StringIO()
    writer = CsvFaces(stream, ("=a", "b"))
    face = ClassifiedFace(Face((-3.5, 2.0, 4.0, 5.0), 0.9, np.zeros((5, 2))), "=a", {"=a": 0.75, "b": 0.25}, None)
    writer.add(Scene(Path("=photo.png")), [face])
    header, row = csv.reader(io.StringIO(stream.getvalue(), newline=""))
    line = dict(zip(header, row, strict=True))
    assert (line["file"], line["left"], line["expression"], line["p_=a"]) == ("'=photo.png", "-3.5", "'=a", "0.750000")
