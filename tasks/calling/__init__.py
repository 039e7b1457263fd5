"""The HTTP calls of a job: which request it is, the Nylas client, uploads, searches of the mailbox."""
