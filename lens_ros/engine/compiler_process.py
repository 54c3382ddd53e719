"""Compile one ONNX file with TensorRT in a subprocess.

Run as ``python -m lens_ros.engine.compiler_process JOB``. ``JOB`` is a JSON file: ``flavour``, ``onnx``,
``plan`` (to write), ``profile``, ``capabilities``. Standard output carries JSON lines: ``{"phase", "done",
"of"}`` during work, then ``{"tensors"}`` or ``{"error"}``. A compiler that runs out of memory does not end
its parent. torch is not loaded, so that its memory is available to the compiler.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lens_ros.engine.child import end_with_parent, report
from lens_ros.engine.errors import EngineError
from lens_ros.engine.tensorrt_api import compile_onnx, import_tensorrt


def main(job: Path) -> int:
    end_with_parent(signal.SIGKILL)
    wanted = json.loads(job.read_text(encoding="utf-8"))
    try:
        library = import_tensorrt(wanted["flavour"])
        profile: dict[str, Any] = {n: tuple(map(tuple, shapes)) for n, shapes in wanted["profile"].items()}
        plan, specs = compile_onnx(
            library,
            Path(wanted["onnx"]),
            profile,
            capabilities=tuple(wanted["capabilities"]),
            progress=lambda phase, done, of: report({"phase": phase, "done": done, "of": of}),
        )
        Path(wanted["plan"]).write_bytes(plan)
    except EngineError as error:
        report({"error": str(error)})
        return 1
    except MemoryError:
        report({"error": "out of memory"})
        return 1
    except OSError as error:
        report({"error": f"the engine cannot be written: {error}"})
        return 1
    report({"tensors": [asdict(spec) for spec in specs]})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
