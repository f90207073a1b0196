"""Where and when work goes: kernels and tiles on GPUs, fusion, and the closed forms by which they are chosen."""
