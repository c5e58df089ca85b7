"""Pixel labels from image labels, by progressive patch learning."""

from pplfast.version import __version__

__all__ = ["__version__"]
