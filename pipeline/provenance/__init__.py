"""What a result can be traced to: code, commit, versions, weights, inputs; and the fingerprint of a search."""
