"""A shop on Flask: each invoice and its mail are accepted in one transaction."""
