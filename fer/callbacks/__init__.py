"""One file per Lightning callback."""
