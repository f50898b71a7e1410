"""Networks: plain modules, no training, no data."""
