"""What benchmarks start beside themselves: `python -m benchmarks.processes.NAME`."""
