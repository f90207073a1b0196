"""Design-space exploration: studies, sweeps, multi-objective search, sensitivity, and their reports."""
