"""The parts of the ``lens`` command, one module each: ``add_parser`` and what it runs."""
