import asyncio
from os import PathLike
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from ._types import Results, Single
from .options import Options

__version__: str

class Ticket:
    def cancel(self) -> None: ...

class Engine:
    def __new__(
        cls,
        model: Union[str, "PathLike[str]"],
        *,
        device: str,
        precision: Optional[str],
        numerics: Optional[str],
        kernels: Optional[str],
        threads: Optional[int],
        batch_tokens: Optional[int],
        concurrency: Optional[int],
        merge: Sequence[str],
        offline: bool,
    ) -> "Engine": ...
    def embed(
        self,
        texts: List[str],
        options: Union[Options, None, List[Options]],
        batch_size: Optional[int],
        progress: Optional[Callable[[int], object]],
        keep_errors: bool,
    ) -> Results: ...
    def time_embed(self, texts: List[str], calls: int) -> List[float]: ...
    def start_service(self) -> None: ...
    def submit(
        self,
        number: int,
        text: str,
        options: Options,
        event_loop: asyncio.AbstractEventLoop,
        future: "asyncio.Future[Single]",
    ) -> Ticket: ...
    def add_adapter(self, name: str, folder: Union[str, "PathLike[str]"]) -> None: ...
    def remove_adapter(self, name: str) -> None: ...
    def adapters(self) -> List[str]: ...
    def prompts(self) -> Dict[str, str]: ...
    def info(self) -> Dict[str, Any]: ...
