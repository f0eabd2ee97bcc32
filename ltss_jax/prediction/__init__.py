"""Labels of people's own images: folders, single images, exported programs."""
