"""Identify the machine that engines are built for: its GPU and libraries."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Gpu:
    """``capability`` as ``(8, 7)``; ``l4t`` is the Jetson's Linux release, empty elsewhere."""

    name: str
    capability: tuple[int, int]
    memory: int
    l4t: str = ""

    @property
    def label(self) -> str:
        """What a TensorRT engine is bound to."""
        release = f" L4T {self.l4t}" if self.l4t else ""
        return f"{self.capability[0]}.{self.capability[1]} {self.name}{release}"

    @property
    def architecture(self) -> str:
        """Architecture in TensorRT-RTX's notation: ``SM89``."""
        return f"SM{self.capability[0]}{self.capability[1]}"


def find_gpu(device: str | torch.device = "cuda") -> Gpu | None:
    """Return the GPU behind a torch device; None if torch sees none."""
    device = torch.device(device)
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(device)
    return Gpu(
        properties.name, (properties.major, properties.minor), properties.total_memory, l4t_release() or ""
    )


def l4t_release() -> str | None:
    """Return the L4T release of a Jetson, such as ``36.4``, else None."""
    path = Path("/etc/nv_tegra_release")
    if not path.is_file():
        return None
    # "# R36 (release), REVISION: 4.3, GCID: ..."
    words = path.read_text(encoding="utf-8", errors="replace").replace(",", " ").split()
    major = next((w[1:] for w in words if w.startswith("R") and w[1:].isdigit()), "?")
    revision = words[words.index("REVISION:") + 1] if "REVISION:" in words else "?"
    return f"{major}.{revision}"


def available_memory() -> tuple[int, int]:
    """Return the bytes that a new process can have without swapping, and of free swap (``/proc/meminfo``)."""
    values = {}
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, rest = line.split(":")
        values[name] = int(rest.split()[0]) * 1024
    return values["MemAvailable"], values.get("SwapFree", 0)


def total_memory() -> int:
    """Return the machine's memory in bytes."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def system() -> str:
    return (
        f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}"
    )
