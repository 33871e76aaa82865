"""The split into train, val and test, with groups left whole and duplicates found."""
