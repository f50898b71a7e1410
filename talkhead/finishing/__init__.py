"""What painted squares get at the size they are shown: the portrait's own detail, and mouths."""
