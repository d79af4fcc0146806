"""Results of the service, in the thread of the event loop."""

from __future__ import annotations

import asyncio
from typing import List, Optional, Tuple

from ._types import Single

Result = Tuple["asyncio.Future[Single]", Optional[Single], Optional[BaseException]]


def settle(results: List[Result]) -> None:
    """Sets the futures that were not cancelled."""
    for future, value, exception in results:
        if future.done():
            continue
        if exception is not None:
            future.set_exception(exception)
        elif value is not None:
            future.set_result(value)
