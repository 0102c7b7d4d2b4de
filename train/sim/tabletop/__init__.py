"""A MuJoCo tabletop: a pusher moves coloured objects in a tray."""
