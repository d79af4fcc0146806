"""Text embeddings by ropeway.

>>> from ropeway import Engine
>>> engine = Engine("models/all-MiniLM-L6-v2")
>>> engine.encode(["a warm coat", "a cold beer"]).shape
(2, 384)
"""

from ._engine import Engine, Info
from ._ropeway import __version__
from .errors import (
    AdapterError,
    DeviceError,
    DeviceLostError,
    FileError,
    ForkedError,
    HubError,
    InternalError,
    ModelError,
    OverloadedError,
    RequestError,
    RopewayError,
    SettingError,
    StoppedError,
    TextError,
)
from .options import Options

__all__ = [
    "AdapterError",
    "DeviceError",
    "DeviceLostError",
    "Engine",
    "FileError",
    "ForkedError",
    "HubError",
    "Info",
    "InternalError",
    "ModelError",
    "Options",
    "OverloadedError",
    "RequestError",
    "RopewayError",
    "SettingError",
    "StoppedError",
    "TextError",
    "__version__",
]
