"""Methods, one file for each paper."""
