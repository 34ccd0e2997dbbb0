"""``y = A x + noise``: operators, groups, files, phantoms."""
