"""Many runs from one sweep file: the plan, the work, and the tables."""
