"""What several trained networks know together, and the loss around them: functions of arrays."""
