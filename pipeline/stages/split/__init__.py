"""The stage that assigns every image to train, val or test, into data/split.json."""
