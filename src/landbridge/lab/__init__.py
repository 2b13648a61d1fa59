"""Two sites on one machine, and the guest that is moved between them."""
