"""A recording of any length, and what can be measured in speech without having learnt anything."""
