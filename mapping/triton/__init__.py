"""Triton kernels without a GPU: compiled, disassembled, and followed instruction by instruction."""
