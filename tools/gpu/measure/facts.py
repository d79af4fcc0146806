"""What the numbers were measured on: the GPU as ropeway and nvidia-smi tell of it, the CPU, the machine."""

import json
import os
import platform
import shutil
import subprocess
import xml.etree.ElementTree as xml

# Containers have the driver's library where the loader may not look.
LIBRARY_FOLDERS = ("/usr/local/nvidia/lib64", "/usr/lib64-nvidia", "/usr/lib/wsl/lib")
PROGRAM_FOLDERS = ("/usr/local/cuda/bin", "/usr/local/nvidia/bin")

# A driver that has just been loaded takes its time.
DEVICES_SECONDS = 120

# Names of nvidia-smi's XML, the newer driver's first.
STATIC = {
    "name": ("product_name",),
    "vbios": ("vbios_version",),
    "max_sm_clock": ("max_clocks/sm_clock",),
    "max_memory_clock": ("max_clocks/mem_clock",),
    "power_limit": ("gpu_power_readings/current_power_limit", "power_readings/power_limit"),
    "ecc": ("ecc_mode/current_ecc",),
    "mig": ("mig_mode/current_mig",),
    "persistence": ("persistence_mode",),
    "memory": ("fb_memory_usage/total",),
}
MOMENT = {
    "temperature": ("temperature/gpu_temp",),
    "sm_clock": ("clocks/sm_clock",),
    "memory_clock": ("clocks/mem_clock",),
    "power": ("gpu_power_readings/instant_power_draw", "gpu_power_readings/power_draw", "power_readings/power_draw"),
    "utilisation": ("utilization/gpu_util",),
    "memory_used": ("fb_memory_usage/used",),
}


def environment():
    """This process's environment, in which the driver's library and tools are found."""
    variables = dict(os.environ)
    libraries = [f for f in LIBRARY_FOLDERS if os.path.exists(os.path.join(f, "libcuda.so.1"))]
    for name, more in (("LD_LIBRARY_PATH", libraries), ("PATH", [f for f in PROGRAM_FOLDERS if os.path.isdir(f)])):
        # Behind what the caller has set.
        parts = [part for part in variables.get(name, "").split(os.pathsep) if part]
        variables[name] = os.pathsep.join(parts + [f for f in more if f not in parts])
    return variables


def find(program, variables):
    return shutil.which(program, path=variables["PATH"])


def device(ropeway, variables):
    """The first GPU as `ropeway devices` tells of it, and None; or None and why there is none."""
    command = [str(ropeway), "devices", "--json"]
    pipe = subprocess.PIPE
    try:
        ended = subprocess.run(command, env=variables, stdout=pipe, stderr=pipe, timeout=DEVICES_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    if ended.returncode != 0:
        return None, ended.stderr.decode(errors="replace").strip() or f"ropeway ended with {ended.returncode}"
    rows = [json.loads(line) for line in ended.stdout.decode().splitlines()]
    gpus = [row for row in rows if row["kind"].startswith("cuda")]
    usable = [row for row in gpus if row["usable"]]
    if usable:
        return usable[0], None
    return None, "; ".join(row["detail"] for row in gpus) or "ropeway devices lists no GPU"


def query(uuid, variables):
    """nvidia-smi's element of this GPU and its root; None and None where there is no nvidia-smi."""
    program = find("nvidia-smi", variables)
    if program is None:
        return None, None
    try:
        ended = subprocess.run(
            [program, "-q", "-x"], env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60
        )
        root = xml.fromstring(ended.stdout)
    except (OSError, subprocess.TimeoutExpired, xml.ParseError):
        return None, None
    gpus = root.findall("gpu")
    same = [gpu for gpu in gpus if gpu.findtext("uuid") == uuid]
    return (same or gpus or [None])[0], root


def values(gpu, names):
    def text(paths):
        found = (gpu.findtext(path) for path in paths)
        return next((value for value in found if value and value not in ("N/A", "[N/A]")), None)

    return {name: text(paths) for name, paths in names.items()}


def moment(uuid, variables):
    """The GPU's clocks, temperature and power now, and what holds its clocks down; None without nvidia-smi."""
    gpu, _ = query(uuid, variables)
    if gpu is None:
        return None
    now = values(gpu, MOMENT)
    reasons = []
    for name in ("clocks_event_reasons", "clocks_throttle_reasons"):
        for reason in gpu.iterfind(f"{name}/*"):
            if reason.text == "Active":
                reasons.append(reason.tag.split("_reason_")[-1])
    now["clocks_held_by"] = reasons
    return now


def gather(found, variables):
    """All that stays as it is while the stages run."""
    gpu, root = query(found.get("uuid"), variables)
    smi = None
    if gpu is not None:
        smi = {"driver": root.findtext("driver_version"), "cuda": root.findtext("cuda_version"), **values(gpu, STATIC)}
    return {
        "device": {key: value for key, value in found.items() if key != "kernels"},
        "kernels": found.get("kernels"),
        "nvidia_smi": smi,
        "cpu": cpu(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def cpu():
    name = platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    except OSError:
        pass
    return {"name": name, "cores": len(os.sched_getaffinity(0))}
