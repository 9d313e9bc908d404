"""The shipped configs: one `get_config()` a file, which states what differs from the defaults."""
