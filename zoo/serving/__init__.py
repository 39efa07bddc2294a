"""Exports: made, proved, described, converted, and asked through a server."""
