"""Long-tail statistics of a data set: `python -m input_pipeline.stats DATA`."""
