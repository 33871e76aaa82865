"""Sources of images: folders, archives and data sets known by name."""
