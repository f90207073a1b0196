"""NPUs: ops lowered to matrix and vector work, mapped by the exact mapper, grouped so that intermediate tensors stay on chip."""
