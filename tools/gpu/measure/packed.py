"""What tools/gpu/pack makes: a manifest, and one archive with all that a GPU machine needs."""

import hashlib
import json
import os
import subprocess
import tarfile

MANIFEST = "manifest.json"
ARCHIVE = "files.tar.xz"


class Unusable(Exception):
    """Nothing can be run; the text says why and what to do."""


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def manifest(folder):
    path = folder / MANIFEST
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Unusable(f"{folder} is not what tools/gpu/pack makes: {path.name}: {error}")


def check_machine(manifest):
    """Whether programs of this pack start here at all."""
    if os.uname().machine != manifest["architecture"]:
        raise Unusable(f"the pack is for {manifest['architecture']}, and this is {os.uname().machine}")
    try:
        here = os.confstr("CS_GNU_LIBC_VERSION").split()[-1]
    except (AttributeError, ValueError, OSError):
        raise Unusable(f"the pack needs glibc {manifest['glibc']} or later, and this C library is another")
    if numbers(here) < numbers(manifest["glibc"]):
        way_out = "pack on an older system, or in a container of one"
        raise Unusable(f"the pack needs glibc {manifest['glibc']}, and this is {here}: {way_out}")


def numbers(version):
    return [int(part) for part in version.split(".")]


def unpack(folder, manifest, to):
    """Unpacks the archive, once all files of the pack are as they were made."""
    for name, wanted in manifest["files"].items():
        path = folder / name
        if not path.is_file() or sha256(path) != wanted["sha256"]:
            raise Unusable(f"{path} is not as it was packed; copy the pack again")
    archive = folder / ARCHIVE
    try:
        with tarfile.open(archive, "r:xz") as files:
            files.extractall(to)
    except tarfile.CompressionError:
        # A Python without lzma; tar has its own.
        subprocess.run(["tar", "-xJf", str(archive), "-C", str(to)], check=True)
