//! Workers, pipeline, forwarding tables.
