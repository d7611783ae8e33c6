"""What things cost on real hardware: measured and published kernel cost profiles."""
