"""COCO-Stuff: COCO 2017 with pixel maps of 171 things and stuff."""
