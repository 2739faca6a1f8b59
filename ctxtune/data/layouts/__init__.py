"""The layouts in which users really hold each data set."""
