"""What can be known of a graph without running it: locality, cuts, regions and schedules."""
