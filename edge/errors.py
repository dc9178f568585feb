"""Every error that edge raises on purpose, as one tree.

    EdgeError
      UsageError               an argument, a flag or a name that does not exist
      ConfigError              a model config or edge.toml with an unknown field or a refused value
      CheckpointError          a checkpoint that is missing, truncated, of the wrong shape, or unsafe to load
      InputError               the user's own data: a CSV, an .npz, calibration samples
      UnsupportedError         an operator, a scheme or a feature that the chosen runtime cannot do
      MissingDependencyError   an extra that is not installed
      BundleError              a bundle that is not whole: schema, hash, path or ABI
      MismatchError            the result does not compute what the model computes
      DeviceError              a device that is not there, or vanished
      StorageError             the disk: full, read-only, no permission

Each carries one sentence that says what is wrong and what to do. The CLI prints that sentence and exits with status 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.devices.messages import Profiled
    from edge.measurement import Measurement


class EdgeError(Exception):
    """Root of the tree; ``str(error)`` is one sentence with the next step."""

    exit_status = 2


class UsageError(EdgeError):
    pass


class ConfigError(EdgeError):
    pass


class CheckpointError(EdgeError):
    pass


class InputError(EdgeError):
    pass


class UnsupportedError(EdgeError):
    pass


class MissingDependencyError(EdgeError):
    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed: run `pip install 'edge[{extra}]'`.")
        self.package = package
        self.extra = extra


class BundleError(EdgeError):
    pass


class MismatchError(EdgeError):
    pass


class DeviceError(EdgeError):
    """``partial`` is what a process that was measuring had finished when it ended, None if nothing; ``measurement`` is
    that as a result, where `edge.profile` raised it.
    """

    partial: Profiled | None = None
    measurement: Measurement | None = None


class StorageError(EdgeError):
    pass
