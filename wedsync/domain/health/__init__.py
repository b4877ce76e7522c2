"""Rules of health: the status of each service, and its impact on weddings."""
