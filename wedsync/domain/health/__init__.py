"""Rules of health: how services stand, and what that means to weddings."""
