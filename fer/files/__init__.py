"""Reading and writing of files within bounds, whole or not at all."""
