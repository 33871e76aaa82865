"""Where images come from: folders, archives and data sets known by name."""
