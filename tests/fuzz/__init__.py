"""Random damaged inputs for everything that reads what others wrote; see ``make fuzz``."""
