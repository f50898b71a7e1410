"""A person's own clips to a speaker of that person: one command from videos to a folder and a report."""
