"""Recipes that share a setting: the papers' tables, and small students."""
