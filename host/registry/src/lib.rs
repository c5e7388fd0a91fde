//! Modules that travel: OCI registries, signatures, trust, what an artifact says of itself.
