"""From weights and images to score maps and labels; knows no config files and no commands."""
