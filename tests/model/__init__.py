"""What the promises rest on, held against every order of events in small worlds; `test_promises` has the table."""
