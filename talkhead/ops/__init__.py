"""The equations: pure tensor functions without parameters."""
