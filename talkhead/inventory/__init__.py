"""What a cache holds: counted, pictured, as a page."""
