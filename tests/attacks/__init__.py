"""Hostile inputs. A package, so that a file here may be named like the one in unit/ whose subject it attacks."""
