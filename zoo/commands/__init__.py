"""The `zoo` command: a module for each group of commands."""
