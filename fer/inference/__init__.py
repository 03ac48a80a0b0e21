"""A trained method on photographs: find faces, classify them, write what was found."""
