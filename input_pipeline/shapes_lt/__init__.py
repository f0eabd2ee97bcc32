"""The embedded data set: drawn scenes whose class frequencies follow a long tail."""
