"""What the exporter shows: account snapshots, metric families and their text. Makes no requests and counts nothing."""
