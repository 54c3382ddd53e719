"""Programs around training: calibration, comparison, averaging, plots, a smoke test."""
