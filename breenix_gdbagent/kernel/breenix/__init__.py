"""What is known of Breenix alone, era by era: its adapter and what that answers from."""
