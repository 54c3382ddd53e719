"""Parts of ``benchmarks/gpu_check.py`` and the code that runs them."""
