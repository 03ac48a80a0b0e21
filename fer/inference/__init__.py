"""Photographs, exported networks and the page in the browser."""
