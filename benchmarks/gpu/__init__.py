"""The parts of ``benchmarks/gpu_check.py`` and what runs them."""
