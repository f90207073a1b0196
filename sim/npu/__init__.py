"""NPUs: cores with matrix and vector engines, scratchpads, DMA queues and shared memory, played on SimPy."""
