"""What can be measured in a recording of speech without having learnt anything: loudness, spectrum, melody."""
