"""A MuJoCo tabletop on which a pusher moves coloured objects."""
