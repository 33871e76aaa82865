"""Rows of query-key products, restated slowly: by image, by head, by key."""

import torch
from torch import Tensor


def by_slices(query: Tensor, key: Tensor, mean_from: int | None, first: int) -> Tensor:
    rows = []
    for image in range(len(query)):
        for head in range(query.shape[1]):
            queries, keys = query[image, head].double(), key[image, head].double()
            asking = queries[0] if mean_from is None else queries[mean_from:].sum(0) / (len(queries) - mean_from)
            rows.append(torch.stack([(0.5 * asking * each).sum() for each in keys[first:]]))
    return torch.stack(rows).unflatten(0, query.shape[:2])
