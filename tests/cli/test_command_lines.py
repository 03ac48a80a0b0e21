"""Command lines of all programs but fer-train: one dialect, and mistakes told in one line before anything is read."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.option_tables import PARSERS, options

import fer
from fer.cli import data, demo_app, evaluate, export, predict, report
from fer.config.command_parser import CommandParser

MAINS = {
    "fer-eval": evaluate.main,
    "fer-predict": predict.main,
    "fer-export": export.main,
    "fer-demo": demo_app.main,
    "fer-report": report.main,
    "fer-data": data.main,
}
EVERY = [one for parser in PARSERS.values() for one in (parser, *parser._verbs())]
SHARED = ("--run", "--model", "--data-root", "--cache-dir", "--trust", "--device", "--least-score", "--no-cam")

Refused = Callable[[str, list[str]], str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Give the one line with which a program refuses a command line, in an empty folder that stays empty."""
    monkeypatch.chdir(tmp_path)

    def call(program: str, words: list[str]) -> str:
        with pytest.raises(SystemExit) as end:
            MAINS[program](words)
        printed = capsys.readouterr()
        said = printed.err.removesuffix("\n")
        assert end.value.code == 2 and printed.out == ""
        assert said.startswith(program) and "\n" not in said
        assert not list(tmp_path.iterdir())
        return said

    return call


@pytest.mark.parametrize(
    ("program", "words", "message"),
    [
        ("fer-eval", [], "RUN is missing; see fer-eval --help"),
        ("fer-eval", ["a", "b"], "'b' has no place here"),
        ("fer-eval", [""], "RUN: '' is blank"),
        ("fer-eval", ["a", "--batch-size", "0"], "--batch-size: '0' is no whole number of 1 or more"),
        ("fer-eval", ["a", "--batch-size=8.5"], "--batch-size: '8.5' is no whole number"),
        ("fer-eval", ["a", "--batch-size=1e3"], "--batch-size: '1e3' is no whole number"),
        ("fer-eval", ["a", "--batch-size"], "--batch-size: expected one argument"),
        ("fer-eval", ["a", "--device", "tpu"], "--device: invalid choice: 'tpu' .*auto.*cpu.*gpu"),
        ("fer-eval", ["--batch", "a"], "there is no option --batch (did you mean --batch-size?)"),
        ("fer-eval", ["a", "--data_root=x"], "there is no option --data_root (did you mean --data-root?)"),
        ("fer-eval", ["nowhere"], "nowhere holds no finished run"),
        ("fer-export", ["a", "--outptu=x"], "did you mean --output?"),
        ("fer-export", ["a", "--output", " "], "--output: ' ' is blank"),
        ("fer-predict", ["a.jpg"], "--run or --model is missing"),
        ("fer-predict", ["--run", "a"], "IMAGES is missing"),
        ("fer-predict", ["a.jpg", "--run", "a", "--model", "b"], "--model: not allowed with argument --run"),
        ("fer-predict", ["a.jpg", "--run", "a", "--detect", "on"], "--detect: invalid choice: 'on'"),
        (
            "fer-predict",
            ["a.jpg", "--run", "a", "--least-score", "1"],
            "--least-score: '1' is no number between 0 and 1",
        ),
        ("fer-predict", ["a.jpg", "--run", "a", "--least-score", "nan"], "--least-score: 'nan' is no number"),
        ("fer-predict", ["a.jpg", "--run", "a", "--least-score", "-0.5"], "--least-score: '-0.5' is no number"),
        ("fer-predict", ["a.jpg", "--run", "a", "--threads", "0"], "--threads: '0' is no whole number of 1 or more"),
        ("fer-predict", ["a.jpg", "--run", "a", "--output", "a.txt"], "--output a.txt: the name must end in .csv or"),
        ("fer-predict", ["a.jpg", "--run", "a", "b.jpg"], "a.jpg is no file, no folder and no pattern"),
        ("fer-demo", [], "--run or --model is missing"),
        ("fer-demo", ["--run", "a", "--prot", "1"], "there is no option --prot (did you mean --port?)"),
        ("fer-demo", ["--run", "a", "--port", "65536"], "--port: '65536' is no whole number from 0 to 65535"),
        ("fer-demo", ["--run", "a", "--port", "-1"], "--port: '-1' is no whole number from 0 to 65535"),
        ("fer-demo", ["--run", "a", "--port", "٣"], "--port: '٣' is no whole number"),
        ("fer-report", ["a", "--figurs", "b"], "did you mean --figures?"),
        ("fer-report", ["a", "--format", "word"], "--format: invalid choice: 'word'"),
        ("fer-data", ["chek"], "VERB: invalid choice: 'chek'"),
        ("fer-data", ["demo", "a", "--trian", "3"], "there is no option --trian (did you mean --train?)"),
        ("fer-data", ["demo", "a", "--train", "0"], "--train: '0' is no whole number of 1 or more"),
        ("fer-data", ["check", "--train", "3"], "has no place here"),
        ("fer-eval", ["a\x1b[2J", "--\x1b[2J"], r"there is no option --\x1b[2J"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_leaves_nothing(
    program: str, words: list[str], message: str, refused: Refused
) -> None:
    said = refused(program, words)
    assert re.search(re.escape(message).replace(r"\.\*", ".*"), said), said


@pytest.mark.parametrize(
    ("program", "words", "same"),
    [
        ("fer-eval", ["run=outputs/x"], ["outputs/x"]),
        ("fer-eval", ["outputs/x", "data.root=/data/raf db"], ["outputs/x", "--data-root", "/data/raf db"]),
        ("fer-export", ["run=my runs/x", "overwrite=true"], ["my runs/x", "--overwrite"]),
        (
            "fer-predict",
            ["run=x", "images=[a.jpg,b c.jpg]", "cam=false"],
            ["--run", "x", "a.jpg", "b c.jpg", "--no-cam"],
        ),
        ("fer-predict", ["a.jpg", "run=x", "cam=true"], ["a.jpg", "--run", "x"]),
        (
            "fer-demo",
            ["model=x", "allowed_hosts=[a,b]"],
            ["--model", "x", "--allowed-host", "a", "--allowed-host", "b"],
        ),
        ("fer-report", ["outputs", "output=a.md"], ["outputs", "--output", "a.md"]),
    ],
)
def test_an_option_may_be_written_as_for_fer_train(program: str, words: list[str], same: list[str]) -> None:
    assert PARSERS[program].read(words) == PARSERS[program].read(same)


def test_a_key_that_resembles_a_name_is_not_guessed(refused: Refused) -> None:
    said = refused("fer-eval", ["runn=my x", "--device=cpu"])
    assert said == "fer-eval: KEY=VALUE is for fer-train; write fer-eval 'my x' --device=cpu"


def test_a_path_may_look_like_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run=x").mkdir()
    Path("images=1.jpg").touch()
    assert evaluate.parser().read(["run=x"]).run == Path("run=x")
    assert evaluate.parser().read(["--", "run=none"]).run == Path("run=none")
    read = predict.parser().read(["images=1.jpg", "images=*.jpg", "--output", "run=x.csv", "--run", "model=y"])
    assert read.images == ["images=1.jpg", "images=*.jpg"] and read.output == Path("run=x.csv")


def test_options_may_stand_between_the_images() -> None:
    read = predict.parser().read(["a.jpg", "--trust", "a.B", "b.jpg", "--run", "x", "--trust=c.D", "--", "--c.jpg"])
    assert read.images == ["a.jpg", "b.jpg", "--c.jpg"] and read.trust == ["a.B", "c.D"]
    assert (read.detect, read.least_score, read.cam, read.overwrite) == ("auto", 0.8, True, False)


@pytest.mark.parametrize("parser", EVERY, ids=lambda parser: parser.prog)
def test_help_explains_every_option_with_its_default(parser: CommandParser) -> None:
    for action in options(parser):
        assert action.help
        if action.option_strings and not action.required and action.dest not in ("run", "model"):
            assert "default: " in action.help, action.option_strings
    assert " " in parser.prog or f"examples:\n  {parser.prog} " in parser.format_help()


@pytest.mark.parametrize("parser", PARSERS.values(), ids=lambda parser: parser.prog)
def test_examples_in_help_can_be_read(parser: CommandParser) -> None:
    examples = (parser.epilog or "").splitlines()[1:]
    assert examples
    for example in examples:
        program, *words = shlex.split(example)
        assert program == parser.prog and parser.read(words)


def test_an_option_means_the_same_everywhere() -> None:
    by_name: dict[str, set[str]] = {name: set() for name in SHARED}
    for parser in PARSERS.values():
        for action in options(parser):
            for name in {*action.option_strings} & {*SHARED}:
                by_name[name].add((action.help or "").removeprefix("for --figures and --suspects: "))
    assert all(len(meanings) == 1 for meanings in by_name.values()), by_name


@pytest.mark.parametrize("module", ["train", "evaluate", "predict", "export", "demo_app", "report", "data"])
def test_every_program_tells_the_projects_version(module: str) -> None:
    command = [sys.executable, "-m", f"fer.cli.{module}", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"fer-[a-z]+ {re.escape(fer.__version__)}\n", done.stdout)
