"""ADE20K-Full: the 2021 release of ADE20K with the 847 classes of the full annotation."""
