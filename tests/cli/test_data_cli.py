"""fer-data: faults end it with a clear message, warnings do not, and what it writes reads back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from support.project import PROJECT

from fer.cli.data import main
from fer.data import given_labels, noise
from fer.data.readers import demo, folder

pytestmark = pytest.mark.measured


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of two classes, 12 training and 4 test images."""
    root = tmp_path / "set"
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for name in ("calm", "joy"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture
def overrides(root: Path, tmp_path: Path) -> list[str]:
    return ["data=folder", f"data.root={root}", "data.store_size=20", f"cache_dir={tmp_path / 'cache'}"]


def test_check_prints_counts_and_succeeds(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *overrides]) == 0
    printed = capsys.readouterr().out
    assert "12 training and 4 test images, 2 classes" in printed
    assert "warning" not in printed


def test_check_reads_every_file_and_every_pixel(
    tmp_path: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "fer.cli.data", "check", *overrides],
            cwd=PROJECT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout, done.stderr

    first, _ = said()
    assert "read all 16 image files in full and compared all decoded pixels with the fingerprint" in first
    (path,) = (tmp_path / "cache").glob("*.npy")
    with path.open("r+b") as stream:
        stream.seek(5_000)
        stream.write(b"random bytes")
    again, complaint = said()
    assert again == first
    assert f"the image store {path} is damaged (block 1 of 1, images 1 to 16" in complaint
    again, complaint = said()
    assert again == first
    assert "damaged" not in complaint
    assert main(["check", *overrides, "image_cache=false"]) == 0
    assert "read all 16 image files" in capsys.readouterr().out


def test_check_fails_with_every_undecodable_image(
    root: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train/calm/1.png", "test/joy/0.png"):
        (root / name).write_bytes(b"no image")
    assert main(["check", *overrides]) == 1
    message = capsys.readouterr().err
    assert "2 faults" in message
    assert f"in {root}" in message
    assert "train/calm/1.png: not an image" in message
    assert "test/joy/0.png: not an image" in message
    assert main(["check", *overrides, "data.on_bad_image=skip"]) == 0
    printed = capsys.readouterr().out
    assert "warning: 2 images cannot be decoded" in printed
    assert "also training images" not in printed, "what is left out cannot leak"


def test_check_lists_more_faults_than_a_message_holds(
    root: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(30):
        (root / f"train/calm/{number}.png").write_bytes(b"")
    assert main(["check", *overrides]) == 1
    message = capsys.readouterr().err
    assert message.count(".png: empty") == 30
    assert "... and" not in message


def test_a_path_may_hold_blanks_and_any_letters(
    root: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    moved = root.rename(root.with_name("Größe 1 (日本) =#"))
    (moved / "train" / "joy").rename(moved / "train" / "être né")
    (moved / "test" / "joy").rename(moved / "test" / "être né")
    assert main(["check", *overrides, f"data.root={moved}"]) == 0
    printed = capsys.readouterr().out
    assert f"folder in {moved}: 12 training and 4 test images, 2 classes" in printed
    assert "être né" in printed


def test_check_warns_of_test_images_that_are_training_images(
    root: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "test/joy/1.png").write_bytes((root / "train/calm/3.png").read_bytes())
    assert main(["check", *overrides]) == 0
    printed = capsys.readouterr().out
    assert "warning: 1 test images are also training images" in printed
    assert "test/joy/1.png = train/calm/3.png" in printed


def test_stats_shows_imbalance_and_the_labels_in_force(
    root: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        (root / f"train/joy/{number}.png").unlink()
    assert main(["stats", *overrides, "noise=pair", "noise.ratio=0.5"]) == 0
    printed = capsys.readouterr().out
    assert "imbalance 2.0 : 1 (calm to joy, train)" in printed
    table = folder.read(root)
    clean = table.labels[table.train]
    given = noise.pair(table, ratio=0.5, seed=0)
    assert f"{(given != clean).sum()} of 9 training labels changed" in printed
    rows = [line.split() for line in printed.splitlines() if line.split()[:1] in (["calm"], ["joy"])]
    counts = noise.transition_counts(clean, given, 2)
    assert rows[0] == ["calm", "6", "2", "66.7%", str(counts[:, 0].sum())]
    assert [row[1:] for row in rows[2:]] == [[str(count) for count in row] for row in counts]


def test_a_written_noise_list_is_read_by_noise_file(tmp_path: Path, root: Path, overrides: list[str]) -> None:
    out = tmp_path / "noise.txt"
    assert main(["noise", str(out), *overrides, "noise=symmetric", "noise.ratio=0.4", "noise.seed=3"]) == 0
    table = folder.read(root)
    lines = out.read_text().splitlines()
    assert [line.rsplit(" ", 1)[0] for line in lines] == [table.file_names[row] for row in table.train]
    expected = noise.symmetric(table, ratio=0.4, seed=3)
    np.testing.assert_array_equal(given_labels.file(table, path=out), expected)
    assert main(["stats", *overrides, "noise=file", f"noise.path={out}"]) == 0


def test_the_training_seed_does_not_move_the_noise(tmp_path: Path, overrides: list[str]) -> None:
    def labels(name: str, *more: str) -> str:
        assert main(["noise", str(tmp_path / name), *overrides, "noise=symmetric", "noise.ratio=0.5", *more]) == 0
        return (tmp_path / name).read_text()

    first = labels("a.txt", "seed=0")
    assert labels("b.txt", "seed=1") == first
    assert labels("c.txt", "noise.seed=1") != first


def test_an_existing_list_is_not_overwritten(
    tmp_path: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.txt"
    out.write_text("precious")
    assert main(["noise", str(out), *overrides]) == 1
    assert "is not overwritten" in capsys.readouterr().err
    assert out.read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["check", "data=raf_db", "data.root=/nowhere"], 1, "/nowhere: no such folder; set data.root"),
        (["check", "data=folder"], 2, "data.root must be given: add data.root=..."),
        (["stats", "data=folder", "noise=file"], 2, "data.root and noise.path must be given"),
        (["check", "data=nonsense"], 2, "no data=nonsense; choose one of demo"),
        (["check", "data.rot=x"], 2, "data.rot"),
        (["noise", "data=folder", "data.root=/nowhere"], 1, "the list to write comes first"),
    ],
)
def test_a_mistake_gives_one_message(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    error = capsys.readouterr().err
    assert error.startswith("fer-data: ")
    assert message in error


def test_a_ratio_out_of_range_is_refused(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", *overrides, "noise=symmetric", "noise.ratio=-0.1"]) == 1
    assert "noise.ratio must be a number with 0 <= ratio < 1, got -0.1" in capsys.readouterr().err


def test_demo_writes_faces_that_check_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "faces"
    assert main(["demo", str(folder), "--train", "9", "--test", "4", "--seed", "1"]) == 0
    assert Image.open(folder / "contact_sheet.png").size[0] > 100
    overrides = ["data=raf_db", f"data.root={folder}", "data.reader.expected=null", f"cache_dir={tmp_path / 'cache'}"]
    assert main(["check", *overrides]) == 0
    assert "9 training and 4 test images, 7 classes" in capsys.readouterr().out
    assert main(["demo", str(folder), "--train", "8"]) == 1
    assert "choose another" in capsys.readouterr().err


def test_torch_is_not_needed_to_check_data() -> None:
    code = "import sys, fer.cli.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


def test_a_transition_matrix_becomes_an_option_of_the_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels drawn from the written matrix have its rates, and all that it holds comes from the first labels."""
    out = tmp_path / "mine" / "noise" / "confused.yaml"
    out.parent.mkdir(parents=True)
    source = [f"cache_dir={tmp_path}", "data.reader.train=700", "data.reader.test=10"]
    main(["stats", *source, "noise=symmetric", "noise.ratio=0.4", "--matrix", str(out)])
    assert f"{out}: the transition matrix" in capsys.readouterr().out
    option = yaml.safe_load(out.read_text())
    matrix = np.array(option["matrix"])
    assert matrix.shape == (7, 7) and np.allclose(matrix.sum(1), 1, atol=1e-8)
    assert 0.5 < matrix.diagonal().mean() < 0.7
    table = demo.read(tmp_path / "demo-700-10-0", train=700, test=10, seed=0)
    given = noise.class_dependent(table, matrix=option["matrix"], classes=option["classes"], seed=3)
    assert abs((given != table.labels[table.train]).mean() - 0.4) < 0.08
    assert main(["stats", *source, "noise=symmetric", "--matrix", str(out)]) == 1
    assert "exists and is not overwritten" in capsys.readouterr().err


def test_class_folders_without_test_images_are_checked_for_folds(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(shapes / "train")
    words = ["data=folder", f"data.root={tmp_path / 'data'}", f"cache_dir={tmp_path / 'cache'}"]
    for verb in ("check", "stats"):
        assert main([verb, *words, "protocol=folds"]) == 0
        assert "20" in capsys.readouterr().out
    assert main(["check", *words]) != 0
    assert "protocol=folds" in capsys.readouterr().err
