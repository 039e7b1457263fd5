"""Small web applications that use sendq, and the recorded stories of `docs/stories`."""
