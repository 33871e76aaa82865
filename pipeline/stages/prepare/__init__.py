"""The stage that decodes the pictures once, into data/prepared."""
