"""Timings of the hot paths, each beside an obvious alternative in the same run."""
