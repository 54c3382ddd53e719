"""Measure answers and report the result."""
