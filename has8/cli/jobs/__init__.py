"""What the commands do; each job is imported when its command runs, since that takes seconds."""
