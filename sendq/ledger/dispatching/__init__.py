"""Lanes and turns: which lanes are due, claiming, recording outcomes, rescuing what dead workers held."""
