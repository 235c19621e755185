"""What an environment holds: tables, columns, records, the clock."""
