"""MHP-v2: multi-human parsing, 59 classes of clothes and body parts."""
