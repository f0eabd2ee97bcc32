"""The training loop and what it moves: step, state, optimizer's schedule, logs, signals."""
