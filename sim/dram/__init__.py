"""DRAM channels command by command: one constraint engine, schedulers on top, and a checker that shares nothing with them."""
