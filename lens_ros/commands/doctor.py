"""``lens doctor``: report what this machine is and what would run a model here."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lens_ros.choices import BACKEND_CHOICES, QUANTIZATIONS
from lens_ros.inputs import DeviceError
from lens_ros.model.errors import CheckpointError
from lens_ros.system.memory import importing


def add_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="lens-nano", help="name or folder (default: lens-nano)")
    parser.add_argument("--device", help="torch device (default: cuda where there is one, else cpu)")
    parser.add_argument("--backend", choices=BACKEND_CHOICES, default="auto", help="default: auto")
    parser.add_argument("--quantization", choices=QUANTIZATIONS, default="none", help="default: none")
    parser.add_argument("--engines", type=Path, help="folder of the engines (default: the user's cache)")
    parser.add_argument("--json", type=Path, help="also write all of it here")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status: 0 well, 1 self-test failed, 2 model unusable."""
    with importing():
        import torch

        from lens_ros.deployment.doctor import examine
        from lens_ros.engine.cache import EngineCache

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    cache = EngineCache(options.engines) if options.engines else EngineCache()
    try:
        found = examine(
            options.model,
            device=device,
            backend=options.backend,
            quantization=options.quantization,
            cache=cache,
        )
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except (CheckpointError, DeviceError, OSError) as error:
        print(f"lens doctor: {error}", file=sys.stderr)
        return 2
    print(_told(found))
    return 0 if found["self_test"]["passed"] else 1


def _told(found: dict[str, Any]) -> str:
    machine, test = found["machine"], found["self_test"]
    gpu = machine["gpu"]["label"] if machine["gpu"] else "none that torch sees"
    lines = [
        f"machine     {machine['system']}",
        f"            {machine['memory_free_gb']} of {machine['memory_gb']} GB memory free, "
        f"{machine['cpu_threads']} CPU threads",
        f"GPU         {gpu}, driver {machine['driver'] or 'none'}, torch for CUDA {machine['torch_cuda']}",
        "versions    " + ", ".join(f"{k} {v or 'none'}" for k, v in found["versions"].items()),
    ]
    for name, state in found["tensorrt"].items():
        lines.append(f"{name:11s} {state['version'] or state['note']}")
        if len(state.get("libraries", ())) > 1:
            lines.append(f"            more than one library: {', '.join(state['libraries'])}")
    lines.append(f"model       {found['model']['name']} in {found['model']['folder']}")
    for part, state in found["backend"].items():
        lines.append(f"{part:11s} {state['runs']}: {state['reason']}")
    for row in found["memory_forecast"]:
        boards = ", ".join(f"{b} {'yes' if fits else 'NO'}" for b, fits in row["fits"].items())
        lines.append(f"memory      {row['quantization']:5s} {row['total_gb']:6.2f} GB; fits {boards}")
    lines.append(f"engines     in {machine['engine_cache']} ({machine['engine_cache_free_gb']} GB free)")
    lines += [f"            {Path(row['folder']).name}: {row['state']}" for row in found["engines"]]
    verdict = "passed" if test["passed"] else "FAILED"
    lines.append(f"self-test   {verdict}: {test['note']} ({test.get('first_answer_ms', '-')} ms, cold)")
    return "\n".join(lines)
