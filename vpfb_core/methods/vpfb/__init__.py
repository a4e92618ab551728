"""vpfb."""
