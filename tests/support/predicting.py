"""fer-predict in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer.inference.photo_job import Outcome, PredictionJob
from fer.runs.run_folder import RunFolder


def predict(run: RunFolder | None, images: Path | list[Path], output: Path, **options: Any) -> Outcome:
    chosen = {
        "run_folder": run.path if run else None, "model": None, "detect": "auto", "least_score": 0.8,
        "overwrite": False, "overlays": None, "cam": True, "batch_size": 32, "device": "cpu", "threads": 2,
    } | options  # fmt: skip
    named = [str(path) for path in (images if isinstance(images, list) else [images])]
    return PredictionJob(images=named, output=output, **chosen).run()
