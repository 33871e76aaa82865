"""The commands of `sar-search cluster`: start a cluster, run on it, take it down."""
