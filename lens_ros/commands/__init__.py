"""Implement the ``lens`` command, one module per subcommand with ``add_parser`` and ``run``."""
