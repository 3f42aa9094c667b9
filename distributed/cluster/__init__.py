"""Launchers: they start daemons somewhere, tell their addresses, and end them. They know no tasks and no values."""
