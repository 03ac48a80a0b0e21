"""Nothing of the user's is overwritten: inputs are never outputs, names do not collide, links are not followed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from support.project import Train

from fer.cli import data as data_cli
from fer.cli import report
from fer.errors import ConfigError, UserError
from fer.files.atomic import open_lock, open_to_append
from fer.inference.photo_job import PredictionJob
from fer.runs.output_files import Inputs, check_output, distinct_names
from fer.runs.run_folder import RunFolder, RunFolderError

OPTIONS: dict[str, Any] = {
    "model": None, "detect": "off", "least_score": 0.8, "overwrite": False, "overlays": None, "cam": True,
    "batch_size": 8, "device": "cpu", "threads": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finished") / "run"


@pytest.fixture
def run(finished: Path, train: Train) -> Path:
    if not finished.is_dir():
        train(finished, "trainer.max_epochs=1", "callbacks=none", "logger=none")
    return finished


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Four faces in two folders, whose names give the same picture."""
    for number, name in enumerate(("one/a.png", "one/a.jpg", "one/a-2.png", "two/A.png")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (60 * number, 90, 200)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def predict(run: Path, images: Path, output: Path, **more: Any) -> None:
    PredictionJob(run_folder=run, images=[str(images)], output=output, **{**OPTIONS, **more}).run()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
def test_photographs_are_never_replaced_by_their_overlays(
    overwrite: bool, run: Path, photographs: Path, tmp_path: Path
) -> None:
    before = contents(photographs)
    output = tmp_path / "new" / "out.csv"
    with pytest.raises(ConfigError, match="would be replaced, and this command reads it"):
        predict(run, photographs, output, overlays=photographs / "one", overwrite=overwrite)
    assert contents(photographs) == before
    assert not output.parent.exists(), "refused before anything is written"


def test_nor_through_links(run: Path, photographs: Path, tmp_path: Path) -> None:
    before = contents(photographs)
    (tmp_path / "linked").symlink_to(photographs / "one")
    with pytest.raises(ConfigError, match="this command reads it"):
        predict(run, photographs, tmp_path / "out.csv", overlays=tmp_path / "linked", overwrite=True)
    seen = tmp_path / "seen"
    seen.mkdir()
    os.link(photographs / "one" / "a.png", seen / "a.png")
    with pytest.raises(ConfigError, match="this command reads it"):
        predict(run, photographs / "one" / "a.png", tmp_path / "out.csv", overlays=seen, overwrite=True)
    assert contents(photographs) == before


def test_every_photograph_has_a_picture_of_its_own(run: Path, photographs: Path, tmp_path: Path) -> None:
    predict(run, photographs, tmp_path / "out.csv", overlays=tmp_path / "seen")
    assert {path.name for path in (tmp_path / "seen").iterdir()} == {"a.png", "a-2.png", "a-3.png", "A-4.png"}


def test_pictures_of_another_call_are_replaced_only_if_that_is_said(
    run: Path, photographs: Path, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    predict(run, photographs / "one" / "a.png", tmp_path / "one.csv", overlays=seen)
    before = contents(seen)
    with pytest.raises(ConfigError, match=r"seen/a\.png exists already; .*--overwrite"):
        predict(run, photographs / "one" / "a.jpg", tmp_path / "two.csv", overlays=seen)
    assert contents(seen) == before and not (tmp_path / "two.csv").exists()
    predict(run, photographs / "one" / "a.jpg", tmp_path / "two.csv", overlays=seen, overwrite=True)
    assert contents(seen) != before


def test_a_link_is_replaced_and_not_what_it_leads_to(run: Path, photographs: Path, tmp_path: Path) -> None:
    seen, mine = tmp_path / "seen", tmp_path / "mine.txt"
    seen.mkdir()
    mine.write_text("mine")
    (seen / "a.png").symlink_to(mine)
    (tmp_path / "out.csv").symlink_to(mine)
    with pytest.raises(ConfigError, match="exists already"):
        predict(run, photographs / "one" / "a.png", tmp_path / "out.csv", overlays=seen)
    predict(run, photographs / "one" / "a.png", tmp_path / "out.csv", overlays=seen, overwrite=True)
    assert mine.read_text() == "mine" and not (seen / "a.png").is_symlink()


@pytest.mark.parametrize("name", ["predictions.csv", "noise.csv", "result.json", "stamp.json", "checkpoints/new.csv"])
def test_files_of_a_run_are_never_outputs(name: str, run: Path, photographs: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    before = contents(copy)
    with pytest.raises(ConfigError, match="belongs to the run in its folder"):
        predict(copy, photographs, copy / name, overwrite=True)
    with pytest.raises(SystemExit):
        report.main([str(copy), "--output", str(copy / name), "--overwrite"])
    assert contents(copy) == before


def test_a_report_replaces_reports_only(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.md", "a.csv", "a.tex", "a.html", "a.txt"):
        for _ in range(2):
            report.main([str(run), "--output", str(tmp_path / name)])
    paper = tmp_path / "paper.tex"
    paper.write_text("years of work")
    with pytest.raises(SystemExit):
        report.main([str(run), "--output", str(paper)])
    assert paper.read_text() == "years of work" and "--overwrite" in capsys.readouterr().err
    report.main([str(run), "--output", str(paper), "--overwrite"])
    assert "booktabs" in paper.read_text()


def test_a_run_starts_in_no_folder_that_holds_such_files(train: Train, tmp_path: Path) -> None:
    for name in ("predictions.csv", "train.log", "noise.csv"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(RunFolderError, match=rf"holds {name} but no config\.yaml"):
            train(folder)
        assert contents(folder) == {str(folder / name): b"mine"}


@pytest.mark.parametrize("name", [".lock", "train.log", "records.jsonl", "error.txt"])
def test_no_link_in_a_run_folder_is_followed(name: str, overrides: list[str], run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    folder = RunFolder(tmp_path / "run")
    folder.make()
    (folder.path / name).symlink_to(mine)
    with pytest.raises((UserError, OSError)):
        if name == ".lock":
            with folder.locked():
                pass
        else:
            open_to_append(folder.path / name)
    folder.add_error("RuntimeError: what", "traceback")
    assert mine.read_text() == "mine"


def test_locks_and_logs_keep_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept\n")
    open_lock(tmp_path / "file").close()
    with open_to_append(tmp_path / "file") as stream:
        stream.write("more\n")
    assert (tmp_path / "file").read_text() == "kept\nmore\n"


def test_the_contact_sheet_follows_no_link(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    arguments = ["demo", str(tmp_path / "demo"), "--train", "2", "--test", "1"]
    assert data_cli.main(arguments) == 0
    (tmp_path / "demo" / "contact_sheet.png").unlink()
    (tmp_path / "demo" / "contact_sheet.png").symlink_to(mine)
    assert data_cli.main(arguments) == 0
    assert mine.read_text() == "mine"


@given(st.lists(st.text("aAäÄ-2.", min_size=1, max_size=5), max_size=8, unique=True))
@example(["a.png", "a.jpg", "a-2.png", "A.png", "a-2"])
@example(["e\u0301.png", "\u00e9.png"])
def test_names_are_distinct_on_any_file_system(names: list[str]) -> None:
    import unicodedata

    paths = [Path("folder", name) for name in names]
    found = distinct_names(paths, ".png")
    assert [*found] == [*dict.fromkeys(paths)]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in found.values()}) == len(found)


def test_a_folder_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        check_output(tmp_path, Inputs([]), may_replace=True, remedy="")
