"""Methods: one file per way of looking. base.py holds Method and the registry."""
