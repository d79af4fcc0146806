"""The exceptions. All are a :class:`RopewayError`; those of bad arguments are a ``ValueError`` as well."""

from __future__ import annotations

from typing import Optional


class RopewayError(Exception):
    """What ropeway raises, but for arguments of the wrong type (``TypeError``).

    ``kind`` is the name of the error in the engine, such as ``"UnknownTask"`` or ``"TooLong"``; ``index`` is the number
    of the text that it belongs to, from 0.
    """

    kind: Optional[str] = None
    index: Optional[int] = None


class ModelError(RopewayError, ValueError):
    """A model's folder or file that is broken, or sets something that is not computed."""


class FileError(RopewayError, OSError):
    """A file that cannot be read."""


class AdapterError(RopewayError, ValueError):
    """An adapter that cannot be added or removed."""


class RequestError(RopewayError, ValueError):
    """Options or a text that this model cannot serve."""


class TextError(RequestError):
    """A text that is no text: it holds a lone surrogate."""


class SettingError(RopewayError, ValueError):
    """A setting or option out of its range."""


class HubError(RopewayError):
    """A model that cannot be had from the hub."""


class DeviceError(RopewayError):
    """A device that cannot be used, or failed."""


class DeviceLostError(DeviceError):
    """A device that failed earlier, and CUDA in this process with it."""


class InternalError(RopewayError):
    """A bug in ropeway."""


class OverloadedError(RopewayError):
    """Too many requests wait; after ``retry_after`` seconds there should be room."""

    retry_after: float = 0.0


class StoppedError(RopewayError):
    """The service was stopped before it computed the request."""


class ForkedError(RopewayError, RuntimeError):
    """The engine was opened before a fork, and is used after it in the child."""
