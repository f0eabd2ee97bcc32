"""ADE20K with 150 classes, as the scene parsing challenge published it."""
