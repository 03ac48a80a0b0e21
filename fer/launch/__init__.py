"""Processes that run jobs: workers, sweeps, and the resources they get."""
