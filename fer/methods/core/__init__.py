"""Base classes and parts that methods share."""
