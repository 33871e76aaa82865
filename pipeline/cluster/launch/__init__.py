"""Starts, runs on and takes down a cluster: `sar-search cluster`."""
