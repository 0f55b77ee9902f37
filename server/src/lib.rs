//! The HTTP server: routes, error mapping, scheduler, limits, metrics, shutdown.
