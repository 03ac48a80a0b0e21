"""Decoding images once, and keeping them."""
