"""Run the ``lens`` command.

Only ``lens watch`` needs ROS.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from lens_ros import interrupts

# Each is a module of lens_ros.commands, imported when it is the one that was asked for: torch takes seconds,
# and not everything needs it.
COMMANDS = {
    "segment": "find what a text names in a picture",
    "convert-released": "make a model of a checkpoint of the paper",
    "combine": "make a model of any Qwen2.5-VL and a SAM",
    "build-engine": "compile a model's segmenter for this machine",
    "quantize": "make a model's language model smaller",
    "deploy": "make a folder that a robot takes of a trained model",
    "doctor": "what this machine is and what would run here",
    "watch": "look at a running node, in the terminal",
    "grasp-bench": "measure, in simulated physics, how often words end in the right object lifted",
    "record-demo": "record the demo bag in the simulator",
}


def main(arguments: list[str] | None = None) -> int:
    """Run ``lens``; return the exit status: 0 found, 1 nothing found, 2 unusable input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="lens", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    with interrupts.raised_once():
        try:
            for name, summary in COMMANDS.items():
                command = commands.add_parser(name, help=summary)
                if arguments[:1] == [name]:
                    importlib.import_module(f"lens_ros.commands.{name.replace('-', '_')}").add_parser(command)
            options = parser.parse_args(arguments)
            return options.run(options)
        except KeyboardInterrupt:
            print("\nlens: interrupted", file=sys.stderr)
            return interrupts.INTERRUPTED
        except ValueError as error:
            from lens_ros.inputs import PathError

            if not isinstance(error, PathError):
                raise
            print(f"lens {arguments[0]}: {error}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    raise SystemExit(main())
