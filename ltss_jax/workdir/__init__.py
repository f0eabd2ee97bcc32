"""The files of a run: where they lie, how they are written, what they say."""
