"""Systems that mix processors with processing in memory: placement, overlap, batches of requests."""
