"""The shipped configs. Each file's `get_config()` states what differs from the defaults."""
