"""What several floors of tests share: real servers, and no network beyond this machine."""
