"""Dataset sanitization and auditing for image-caption data."""

__version__ = "0.1.0"
