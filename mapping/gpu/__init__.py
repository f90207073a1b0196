"""GPU kernels: from ops to kernel families, and the closed form of each family."""
