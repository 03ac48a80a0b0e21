"""Backbones and the networks around them."""
