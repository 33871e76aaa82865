"""The split: which image is in train, val or test, with groups kept together and duplicates found."""
