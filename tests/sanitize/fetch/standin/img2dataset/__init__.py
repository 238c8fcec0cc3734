# ruff: noqa
"""A stand-in for img2dataset with the functions that the driver relies on; it stores bytes as they came."""
