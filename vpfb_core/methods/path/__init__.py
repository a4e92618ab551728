"""The path from noise to data, on which more than one method trains: its coordinates, schedules, angles and draws."""
