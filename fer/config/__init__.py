"""Composing, naming, checking and building configurations."""
