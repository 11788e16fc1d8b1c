"""Pages that show a case in a browser, and the server behind those that correct it."""
