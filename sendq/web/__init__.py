"""Shared by the console and the HTTP API: counting failed logins, and which proxies are believed."""
