"""Pictures and numbers of part datasets and of what models find in them."""
