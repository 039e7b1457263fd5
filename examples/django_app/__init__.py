"""A shop on Django: each invoice and its mail are accepted in one transaction."""
