"""What PyTorch brings to tools/peers/gpu. Importing this needs torch."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch
from race import Unavailable


def refusal(error, cuda):
    """What a library said to a shape that it does not take. Raises what it was where the device is lost with it, and
    so everything that would follow."""
    if cuda:
        try:
            torch.cuda.synchronize()
        except Exception:
            raise error from None
    return Unavailable.because(error)


class Torch:
    def __init__(self, device):
        self.kind = device
        if device == "cuda":
            try:
                # One kernel: a driver that only lists a device is not enough.
                works = torch.cuda.is_available() and torch.ones(8, device="cuda").sum().item() == 8
            except Exception as error:
                said = " ".join(str(error).split())[:200]
                raise Unavailable(f"PyTorch {torch.__version__} cannot use the GPU: {said}") from error
            if not works:
                raise Unavailable(f"PyTorch {torch.__version__} finds no GPU that it can use")

    def device(self):
        if self.kind == "cpu":
            return {"name": platform.processor() or platform.machine(), "kind": "cpu"}
        about = torch.cuda.get_device_properties(0)
        found = {"name": about.name, "kind": "cuda", "multiprocessors": about.multi_processor_count}
        found |= {"memory_bytes": about.total_memory, "l2_bytes": about.L2_cache_size}
        asked = "driver_version,clocks.sm,clocks.mem,power.limit"
        try:
            query = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader", f"--id=GPU-{about.uuid}"]
            answer = subprocess.run(query, capture_output=True, text=True, timeout=20)
            if answer.returncode == 0:
                found |= dict(zip(asked.split(","), (value.strip() for value in answer.stdout.split(","))))
        except (OSError, subprocess.TimeoutExpired):
            pass
        return found

    def versions(self):
        found = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
        found["cudnn"] = torch.backends.cudnn.version()
        for name in ("transformers", "peft", "triton"):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = None
        return found

    def encoders(self, model, pace):
        from checkpoint import Checkpoint
        from torch_encoder import Encoders

        checkpoint = Checkpoint(model)
        return checkpoint, Encoders(checkpoint, self.kind, pace)

    def kernels(self):
        from torch_kernels import Kernels

        return Kernels(self.kind)
