"""What people see and press: progress, signals, command-line arguments."""
