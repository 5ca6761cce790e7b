"""Import paths that users' own scripts rely on."""
