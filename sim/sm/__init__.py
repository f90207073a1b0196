"""One SM, cycle by cycle: the machine code of a kernel issued warp by warp, and whole grids from a few simulated waves."""
