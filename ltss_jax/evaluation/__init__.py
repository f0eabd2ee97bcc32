"""Scoring states of a run or converted weights on the validation split."""
