"""A user's own data set: a folder of images, label PNGs and class names."""
