"""What outlives a process: working directories, checkpoints, exports, other projects' weights."""
