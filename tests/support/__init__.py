"""Shared by several folders of tests: real servers, and a block on network access beyond this machine."""
