"""What methods with column feedback are made of: an order of the columns, a factor of the Hessian, sweeps."""
