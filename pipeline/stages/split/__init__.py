"""The stage that gives every image a role, into data/split.json."""
