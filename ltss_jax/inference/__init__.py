"""From weights and images to score maps and labels; all but `restore.py` know no config."""
