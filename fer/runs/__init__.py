"""Content of run folders, written and read in one place."""
