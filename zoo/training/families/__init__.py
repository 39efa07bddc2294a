"""Recipes that several recipe files derive from: the papers' settings, and small students."""
