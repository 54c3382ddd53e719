"""Ratios of times and of memory, each within one run."""
