"""Workarounds for faults of the middleware. Each file says when it may go."""
