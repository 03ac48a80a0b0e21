"""Objects built as the configuration builds them: values are checked against the signature first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fer.config.instantiate import call_configured
from fer.config.signatures import check_arguments


def configured(key: str, call: Callable[..., Any], make: Callable[..., Any] | None = None, **values: Any) -> Any:
    """Check values as those of a node and call with them.

    Args:
        key: where the node stands, for messages.
        call: whose signature states kinds and ranges.
        make: what is called instead, if anything.
        values: as YAML has them, lists instead of tuples.

    Raises:
        ConfigError: a value does not fit.
    """
    check_arguments(call, values, key)
    return call_configured(make or call, **values)
