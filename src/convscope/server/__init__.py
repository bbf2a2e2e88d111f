"""The page's server: FastAPI on loopback, one model worker, everything denied by default."""
