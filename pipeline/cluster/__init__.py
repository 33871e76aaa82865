"""Ray's runtime, local or of a cluster: its nodes, the code and data sent to them, and shared storage."""
