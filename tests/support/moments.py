"""Moments at which a run can be killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.copyfile", "shutil.rmtree"}


class Moments:
    """The moments at which this process changes a file of a folder, told by Python itself just before."""

    def __init__(self, folder: Path, at_each: Callable[[int, str], None]) -> None:
        self.folder, self.at_each, self.count = str(folder), at_each, 0
        sys.addaudithook(self)  # for ever: only for processes that end soon

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or not str(arguments[0]).startswith(self.folder):
            return
        if event == "open" and not (arguments[1] and set(arguments[1]) & set("wax+")):
            return
        self.count += 1
        self.at_each(self.count, f"{event} {Path(str(arguments[0])).name}")


def ended(child: int) -> int:
    return os.waitpid(child, 0)[1]
