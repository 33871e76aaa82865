"""Where pictures come from: folders, archives, named data sets."""
