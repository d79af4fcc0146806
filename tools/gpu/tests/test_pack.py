"""What a pack tells of the machine that made it: nothing."""

import importlib.machinery
import importlib.util
import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

SCRIPT = str(Path(__file__).parent.parent / "pack")
LOADER = importlib.machinery.SourceFileLoader("pack_script", SCRIPT)
pack = importlib.util.module_from_spec(importlib.util.spec_from_loader("pack_script", LOADER))
LOADER.exec_module(pack)


class Paths(unittest.TestCase):
    def test_the_builders_folders_are_gone_and_no_byte_has_moved(self):
        with tempfile.TemporaryDirectory() as folder:
            registry = Path(folder) / "cargo/registry/src/crates.example.org-1234"
            registry.mkdir(parents=True)
            home = {"HOME": f"{folder}/home", "CARGO_HOME": f"{folder}/cargo", "NVCC": f"{folder}/cuda/bin/nvcc"}
            home["CARGO_TARGET_DIR"] = f"{folder}/target"
            texts = [
                f"{registry}/half-2.7/src/lib.rs",
                f"{folder}/cuda/bin/..//include/cuda_bf16.hpp",
                f"{folder}/target/tmp",
                f"{folder}/home/.profile",
                f"{pack.ROOT}/cuda/gemm.cu",
                # A directory in line information ends where it ends.
                f"{pack.ROOT}/cuda\0",
                f"{pack.ROOT}\0",
            ]
            before = "|".join(texts).encode()
            with mock.patch.dict(os.environ, home):
                after = pack.without_paths(before)
        self.assertEqual(len(after), len(before))
        for gone in (folder, "example.org", str(pack.ROOT), "home"):
            self.assertNotIn(gone.encode(), after)
        ends = [text.rpartition(b"//")[2] for text in after.split(b"|")]
        self.assertEqual(
            ends,
            [b"half-2.7/src/lib.rs", b"include/cuda_bf16.hpp", b"tmp", b".profile", b"cuda/gemm.cu", b"cuda\0", b"\0"],
        )

    def test_other_paths_stay(self):
        kept = b"/usr/local/cuda/bin/nvcc /proc/self/status /rustc/0123/library/core/src/fmt.rs /rooted/x"
        with mock.patch.dict(os.environ, {"HOME": "/root", "NVCC": "/usr/local/cuda/bin/nvcc"}):
            self.assertEqual(pack.without_paths(kept), kept)
            self.assertEqual(pack.without_paths(b"/root/x"), b"./////x")
