"""The error policy: from any answer of the API to a failure, its rule and a decision. Pure."""
