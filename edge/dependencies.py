"""Which packages are there: asked by name, so that a missing one is a sentence and not a traceback."""

from __future__ import annotations

import importlib.util
from importlib import metadata

from edge.errors import MissingDependencyError


def require(extra: str, purpose: str, *packages: str) -> None:
    """Raise MissingDependencyError for the first of ``packages`` (import names) that is not installed.

    ``purpose`` begins the sentence ("exporting"); ``extra`` is what brings the package.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, extra, purpose)


def version(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
