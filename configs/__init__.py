"""Configurations: one file a data set, every field and its default in `common`."""
