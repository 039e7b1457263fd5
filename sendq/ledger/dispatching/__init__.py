"""Lanes and turns: who is due, claiming, recording outcomes, rescuing what dead workers held."""
