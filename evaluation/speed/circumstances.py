"""Everything that a time depends on besides the code: versions, device, processor, threads."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("ibviz", "torch", "torchvision", "numpy", "matplotlib", "captum")
PEERS = {  # the package of each rival; one that is not installed is left out
    "torchcam": "TorchCAM",
    "grad-cam": "pytorch-grad-cam",
    "quantus": "Quantus",
    "torchray": "TorchRay",
    "shap": "shap",
    "lime": "lime",
}


def circumstances(device: torch.device) -> dict[str, Any]:
    """Return versions, device, processor and threads; rows of one file share them."""
    versions = {name: _version(name) for name in (*PACKAGES, *PEERS)}
    return {
        "python": platform.python_version(),
        "versions": {name: number for name, number in versions.items() if number},
        "not installed": [label for name, label in PEERS.items() if not versions[name]],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    """Return the processor's name and the instructions that bfloat16 needs."""
    try:
        facts = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    lines = dict(line.replace("\t", "").split(":", 1) for line in facts.splitlines() if ":" in line)
    flags = lines.get("flags", "").split()
    special = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{lines.get('model name', platform.machine()).strip()} ({', '.join(special)})"
