"""Helpers of the tests; ``conftest.py`` holds the fixtures."""
