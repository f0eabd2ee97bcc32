"""What the readers of raw data sets share: pairing files, checking them, storing records."""
