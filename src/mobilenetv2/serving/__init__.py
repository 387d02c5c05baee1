"""A model behind HTTP: uploads, the V2 inference protocol, health, metrics and a page.

Needs the extra `serve`. `server.serve` runs it; `app.make_app` is the application alone.
"""
