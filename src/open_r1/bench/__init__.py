"""``open-r1 bench``: what this machine does in a second, by the code that trains and draws."""
