"""Methods against each other on the same measurements, and what a trained network is."""
