"""A shop on FastAPI: each invoice and its mail are accepted in one transaction."""
