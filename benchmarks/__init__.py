"""Benchmarks that compare times and memory within one run, as ratios."""
