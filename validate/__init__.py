"""Whether to believe it: op tables, error tables, calibration, intervals, and published results as cases."""
