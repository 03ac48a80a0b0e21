"""Paths reach ``fer-train continue=`` as they were typed."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fer.config.quoting import quote_paths
from fer.launch.continuation import read_request


@settings(max_examples=100)
@given(st.text(st.sampled_from("ab1 ,=()[]{}'\"\\/$:#*?%@ü"), min_size=1).filter(lambda t: t.strip() == t))
def test_any_path_of_a_continued_run_is_read_as_it_was_typed(path: str) -> None:
    if (path[0], path[-1]) == ("[", "]"):
        return  # a list
    typed = [f"continue={path}", f"data.root={path}", "trainer.max_epochs=3"]
    request = read_request(quote_paths(typed, ["continue", "data.root"]))
    assert request.folder.path == Path(path).absolute()
    assert request.values == {"data.root": path, "trainer.max_epochs": 3}
