"""Origin of a result: code, commit, versions, weights, inputs; and the fingerprint of a search."""
