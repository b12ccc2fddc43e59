"""Schemes: how a linear layer is rounded when codes and scales are tensors of their own."""
