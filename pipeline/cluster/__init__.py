"""Ray's runtime: started here or connected to; its nodes, the code and data sent to them, and storage they share."""
