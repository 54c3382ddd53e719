"""Helper processes that benchmarks start: `python -m benchmarks.processes.NAME`."""
