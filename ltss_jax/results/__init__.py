"""Scores, the result of an evaluation and the data that it is of: numpy alone, no JAX."""
