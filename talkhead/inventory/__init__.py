"""What a cache holds: counted, pictured, as a page; and several caches as one."""
