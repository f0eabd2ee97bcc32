"""The training loop and what it moves: run, step, state, logs, traces, pictures, signals."""
