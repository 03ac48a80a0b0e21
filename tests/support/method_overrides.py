"""Overrides with which each method trains within seconds."""

from __future__ import annotations

from support.project import PROJECT

METHODS = sorted(path.stem for path in (PROJECT / "conf" / "method").glob("*.yaml"))


# Methods that need the seven expressions; they get the names of the shapes' three classes.
OF_THREE_CLASSES = {"pdls": ["method.classes=[bar,disc,line]", "method.prior=[[0.8,0.1,0.1],[0.05,0.9,0],[0,0.3,0.7]]"]}


# Schedules that would not act within three epochs, and variants that keep more state.
ACTING = {
    "dividemix": ["method.warm_up=1"],
    "man": ["method.warm_up=1"],
    "gce": ["method.truncate_at=0.34", "method.truncate_from=1", "method.truncate_every=1"],
    "transfer": ["method.blocks=1", "method.heads=2", "method.dimensions=16"],
    "scn": ["method.relabel_from=0", "method.relabel_margin=0", "method.lam=1"],
}


def overrides_of(method: str) -> list[str]:
    return [f"method={method}", *OF_THREE_CLASSES.get(method, []), *ACTING.get(method, [])]
