"""Weights of published models: reading their files, and their names and layouts, both ways."""
