"""The version of this package: written here, read by setup.py, the documentation, and whoever greets a peer."""

__version__ = "0.1.0"
