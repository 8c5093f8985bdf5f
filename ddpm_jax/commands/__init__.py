"""The programs that the package installs, by the names in `entry_points`."""
