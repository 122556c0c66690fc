"""What counts. The ledger decides, the store keeps."""
