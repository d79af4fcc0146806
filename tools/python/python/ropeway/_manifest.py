"""What a folder of vectors belongs to: the model, the options and the inputs that every file in it was made with."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from typing import IO, Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ._shards import Shard
from .errors import SettingError

MANIFEST, LOCK = "_manifest.json", "_lock"

# The files of a model's folder that vectors depend on, and folders with other runtimes' copies.
MODEL_SUFFIXES = (".json", ".safetensors", ".txt")
OTHER_RUNTIMES = ("onnx", "openvino")


def model_hash(folder: str) -> str:
    """SHA-256 of the names and bytes of a model's files."""
    total = hashlib.sha256()
    for name in sorted(_files_of(folder)):
        total.update(f"{name}\n".encode(errors="surrogateescape"))
        of_one = hashlib.sha256()
        with open(os.path.join(folder, name), "rb") as file:
            while chunk := file.read(1 << 20):
                of_one.update(chunk)
        total.update(of_one.digest())
    return total.hexdigest()


def _files_of(folder: str) -> Iterator[str]:
    for path, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name not in OTHER_RUNTIMES and not name.startswith(".")]
        yield from (os.path.relpath(os.path.join(path, name), folder) for name in names if name.endswith(MODEL_SUFFIXES))


def input_facts(files: Sequence[str]) -> Dict[str, Dict[str, int]]:
    """How a file is known again."""
    facts = {}
    for file in files:
        found = os.stat(file)
        facts[file] = {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    return facts


def claim(folder: str) -> Optional[IO[str]]:
    """Locks the folder for this process until what is returned is closed. None where there are no such locks."""
    os.makedirs(folder, exist_ok=True)
    others = [name for name in os.listdir(folder) if name not in (MANIFEST, LOCK) and not name.startswith(".")]
    if others and not os.path.exists(os.path.join(folder, MANIFEST)):
        raise SettingError(f"{folder}: holds {others[0]!r}, but no {MANIFEST}; give an empty folder, or a new one")
    try:
        import fcntl
    except ImportError:
        return None
    lock = open(os.path.join(folder, LOCK), "a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise SettingError(f"{folder}: another run is writing to it; wait for its end, or end it") from None
    except OSError:
        # A file system without locks.
        pass
    return lock


def begin(folder: str, run: Mapping[str, Any], cut: Callable[[], List[Shard]]) -> List[Shard]:
    """All shards of the run: those of the manifest if the folder has one, which must be of the same run.

    ``run`` has ``options``, ``model`` and ``inputs``, in words of JSON.
    """
    path = os.path.join(folder, MANIFEST)
    wanted = json.loads(json.dumps(run))
    if not os.path.exists(path):
        shards = cut()
        content = json.dumps({**wanted, "shards": [asdict(shard) for shard in shards]}, indent=1)
        write_whole(path, lambda file: file.write(content.encode()))
        return shards
    try:
        with open(path, encoding="utf-8") as file:
            known = json.load(file)
        shards = [Shard(**shard) for shard in known.pop("shards")]
        differing = list(_differences(known, wanted))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise SettingError(f"{path}: was not written by ropeway-fleet; give another folder") from None
    if differing:
        more = f", and {len(differing) - 3} more differences" if len(differing) > 3 else ""
        raise SettingError(
            f"{path}: the run that began this folder differs: {'; '.join(differing[:3])}{more}. "
            "Go on with what it began with, or give another folder for a run of its own"
        )
    return shards


def _differences(known: Dict[str, Any], wanted: Dict[str, Any]) -> Iterator[str]:
    old, new = known["model"], wanted["model"]
    if old["sha256"] != new["sha256"]:
        names = [f"{model['name']} with files of SHA-256 {model['sha256'][:12]}..." for model in (old, new)]
        yield f"the model was {names[0]}, and is {names[1]} now"
    for name in sorted({**known["options"], **wanted["options"]}):
        old, new = known["options"].get(name), wanted["options"].get(name)
        if old != new:
            yield f"{name} was {_shown(old)}, and is {_shown(new)} now"
    for name in sorted({**known["inputs"], **wanted["inputs"]}):
        old, new = known["inputs"].get(name), wanted["inputs"].get(name)
        if old != new:
            yield f"the input {name} " + ("is new" if old is None else "is missing" if new is None else "was changed")


def _shown(value: object) -> str:
    return "not given" if value is None else json.dumps(value)


def write_whole(path: str, write: Callable[[IO[bytes]], object], mark: str = "") -> None:
    """Writes a file under a temporary name beside it, and renames it when it is on the disk: it is there whole, or not."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{mark or os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    if os.name == "posix":
        # So is its name.
        entry = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)


def remove_unfinished(folder: str) -> None:
    """What processes left that were killed while they wrote."""
    for name in os.listdir(folder):
        if name.startswith(".") and name.endswith(".part"):
            os.unlink(os.path.join(folder, name))
