"""One file per method; ``base.py`` holds what they share."""
