"""A follow-up in three steps that stops when it is answered: a sequence of mails in one thread."""
