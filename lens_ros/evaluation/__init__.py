"""How good answers are, and a report of it."""
