"""What capture and analysis cost, measured."""
