"""``lens watch``: show a running node in the terminal."""

from __future__ import annotations

import argparse
import sys


def add_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--node", default="perception", help="its name, as /robot/perception (default: perception)"
    )
    parser.add_argument("--once", action="store_true", help="print one snapshot and end")
    parser.add_argument(
        "--wait",
        type=float,
        default=10.0,
        help="seconds to look for the node, and with --once for all that it has to tell (default: 10)",
    )
    parser.add_argument(
        "--interval",
        type=float,
        help="seconds between two views (default: 0.5; 5 where there is no terminal), "
        "or before the only one (2.5)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status: 0 ended as asked, 2 no ROS or no such node."""
    try:
        from lens_ros.commands import watch_view
    except ImportError as error:
        print(
            f"lens watch: needs ROS 2 and the built interfaces of lens_ros ({error}): source your "
            "workspace's install/setup.bash, or `. ./env.sh` in a checkout",
            file=sys.stderr,
        )
        return 2
    return watch_view.main(options)
