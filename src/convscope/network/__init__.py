"""Networks: what a module is called with, call by call, and the geometry of what each unit sees."""
