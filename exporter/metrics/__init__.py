"""What is shown. Nothing here asks the platform or decides what counts."""
