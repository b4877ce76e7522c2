"""Google Calendar: events under ids of our choosing."""
