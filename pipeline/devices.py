"""Takes what the settings say about device and precision.

Gives the torch device and dtype to run on.
Knows nothing of networks.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.errors import DeviceUnavailable

#: setting -> dtype
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: images in one forward pass. With a pass on each of two cores, mobilenet_v3_small takes 1.84 ms per image with
#: 16, 2.11 with 8 and 2.14 with 32; resnet18 20.8 with 16, 19.5 with 8 and 23.2 with 32. Not measured on a GPU.
BATCH_ON_CPU, BATCH_ON_GPU = 16, 64
#: what containers of one machine share and host names do not tell
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def choose_device(setting: str) -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:N" into a device that is there; raise DeviceUnavailable."""
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if setting == "cpu":
        return torch.device("cpu")
    name, _, index = setting.partition(":")
    if name != "cuda" or (index and not index.isdecimal()):
        raise DeviceUnavailable(f"The device {setting!r} is not known; choose auto, cpu, cuda or cuda:N.")
    if not torch.cuda.is_available():
        raise DeviceUnavailable(f"{setting} was asked for, but torch finds no CUDA device; choose auto or cpu.")
    if int(index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(f"{setting} was asked for, but there are {torch.cuda.device_count()} CUDA devices.")
    return torch.device(setting)


def device_id(device: torch.device) -> str | None:
    """Name the device itself, alike in every container: a GPU by its UUID, the CPU by its kernel's boot id.

    None where a CPU's kernel tells none.
    """
    if device.type == "cuda":
        return str(torch.cuda.get_device_properties(device).uuid)
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return None


def memory(device: torch.device) -> dict[str, float]:
    """Give a GPU's memory in bytes: what it has, what anybody has taken, what this process holds; of a CPU nothing."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device)
    return {"device_total_bytes": total, "device_used_bytes": total - free, "device_held_bytes": held}


def choose_batch_size(setting: int, device: torch.device) -> int:
    """Give the setting, or for 0 what suits the device: a CPU's caches hold few images, a GPU wants many."""
    return setting or (BATCH_ON_GPU if device.type == "cuda" else BATCH_ON_CPU)


def choose_precision(setting: str, device: torch.device) -> torch.dtype:
    """Turn "auto", "fp32" or "bf16" into a dtype; auto is bf16 on GPUs that have it, else fp32."""
    if setting == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    if setting not in PRECISIONS:
        raise DeviceUnavailable(f"The precision {setting!r} is not known; choose auto, fp32 or bf16.")
    return PRECISIONS[setting]
