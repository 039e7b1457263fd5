"""Models of the promises, checked in every order of events in small worlds; `test_promises` has the table."""
