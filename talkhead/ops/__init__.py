"""The equations: tensor functions without parameters, and the clock that blinks are drawn by."""
