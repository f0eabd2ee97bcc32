"""Colours, names and pictures of label maps."""
