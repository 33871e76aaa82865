"""The stage that decodes the images once, into data/prepared."""
